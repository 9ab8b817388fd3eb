"""What Temper tells Prefect's event system, so that deployments and notifications hang on it.

    temper.model-version.created    a version was registered in MLflow (from the receiver)
    temper.model-version.refused    its file cannot be evaluated
    temper.hardening.due            a version that arrived waits for its candidates to be run
    temper.gate.refused             a run ended without meeting its gate
    temper.model.promoted           a version became the champion, by promotion or rollback

The id of an event follows from what it says: told twice, it is one event.
"""

import asyncio
import os
from datetime import UTC, datetime
from typing import Any
from uuid import NAMESPACE_URL, UUID, uuid5

import httpx
from prefect.client.orchestration import get_client
from prefect.events import Event, emit_event
from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, temporary_settings

from hardening.errors import ServiceError
from tasks.settings import PREFECT_API

CREATED = "temper.model-version.created"
UNFIT = "temper.model-version.refused"
DUE = "temper.hardening.due"
REFUSED = "temper.gate.refused"
PROMOTED = "temper.model.promoted"

PATIENCE = 10.0
"""Seconds that Prefect may take to answer; MLflow waits 30 for the receiver."""


def created(name: str, version: int) -> dict[str, Any]:
    """The event that version `version` of the registered model `name` exists."""
    return _about(CREATED, name, version, {})


def unfit(name: str, version: int, reason: str) -> dict[str, Any]:
    """The event that the file of a version cannot be evaluated."""
    return _about(UNFIT, name, version, {"reason": reason})


def due(name: str, version: int) -> dict[str, Any]:
    """The event that a version waits for its candidates to be run on it."""
    return _about(DUE, name, version, {})


def refused(name: str, evidence: str, reason: str) -> dict[str, Any]:
    """The event that the run `name` ended without meeting its gate."""
    return {
        "event": REFUSED,
        "id": uuid5(NAMESPACE_URL, f"{REFUSED}/{evidence}/{name}"),
        "resource": {"prefect.resource.id": f"temper.run.{name}", "prefect.resource.name": name},
        "payload": {"name": name, "evidence": evidence, "reason": reason},
    }


def promoted(name: str, version: int, reason: str, entry: str) -> dict[str, Any]:
    """The event that version `version` became the champion of `name`, by the ledger's `entry`."""
    return {
        "event": PROMOTED,
        "id": uuid5(NAMESPACE_URL, f"{PROMOTED}/{entry}"),
        "resource": {
            "prefect.resource.id": f"temper.model.{name}",
            "prefect.resource.name": name,
        },
        "payload": {"name": name, "version": version, "reason": reason},
    }


def tell(event: dict[str, Any]) -> None:
    """Tell Prefect in passing, from inside a run: what hangs on it is a notification."""
    emit_event(**event)


def tell_surely(event: dict[str, Any]) -> None:
    """Tell Prefect and return when it knows, from inside a run or not; nobody, if there is none.

    Raises:
        ServiceError: Prefect does not answer or refuses.
    """
    if os.environ.get(PREFECT_API):
        asyncio.run(deliver(event))


async def deliver(event: dict[str, Any]) -> None:
    """Hand an event to Prefect and return when Prefect has it.

    Raises:
        ServiceError: Prefect does not answer or refuses.
    """
    told = Event.model_validate({"occurred": datetime.now(UTC), **event})
    try:
        # The sender repeats; prefect's own way to emit would forget what it cannot send.
        with temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0}):
            async with get_client(httpx_settings={"timeout": PATIENCE}) as client:
                await client.request("POST", "/events", json=[told.model_dump(mode="json")])
    except (httpx.HTTPError, RuntimeError) as error:
        raise ServiceError(f"{PREFECT_API}: does not take events ({error})") from error


def _about(kind: str, name: str, version: int, more: dict[str, Any]) -> dict[str, Any]:
    return {
        "event": kind,
        "id": _identity(kind, name, version),
        "resource": {
            "prefect.resource.id": f"mlflow.model-version.{name}.{version}",
            "prefect.resource.name": f"{name} version {version}",
            # The name alone: a pattern on the id would take `digits.v2.1` for one of `digits`.
            "mlflow.model": name,
        },
        "payload": {"name": name, "version": version, **more},
    }


def _identity(kind: str, name: str, version: int) -> UUID:
    return uuid5(NAMESPACE_URL, f"{kind}/{version}/{name}")
