"""The doctor's look at MLflow: the registry, the artifacts and the webhook do what we need."""

import os
import secrets
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from boto3.exceptions import Boto3Error
from botocore.exceptions import BotoCoreError, ClientError

from hardening.errors import ServiceError
from tasks.finding import Finding, well, wrong
from tasks.mlflow_client import TRACKING, is_server, mlflow_client, probe, shown, tracking_uri
from tasks.s3_failures import KEYS
from tasks.settings import PREFECT_API, STORE, WEBHOOK_SECRET, environment, store_uri

if TYPE_CHECKING:
    from mlflow import MlflowClient

WEBHOOK_CURES = {
    401: f"MLflow signs with another secret: python -m infra.setup URL, with {WEBHOOK_SECRET} set",
    404: "the webhook's address is not that of a receiver: python -m infra.setup URL",
    503: f"the receiver does not reach Prefect: correct its {PREFECT_API}",
}


LOOPBACK = {"localhost", "127.0.0.1", "::1"}


def examine() -> list[Finding]:
    """Read and write the registry and the artifacts, and let MLflow try its webhook."""
    uri = tracking_uri()
    if not is_server(uri):
        return [_database(uri)]
    try:
        with mlflow_client() as client:
            client.search_registered_models(max_results=1)
            name = f"temper-doctor-{secrets.token_hex(4)}"
            client.create_registered_model(name)
            client.delete_registered_model(name)
    except ServiceError as error:
        denied = any(word in str(error) for word in ("401", "403", "authenticat", "ermission"))
        cure = (
            "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD of a user who may write"
            if denied
            else f"start it, or correct {TRACKING} (without it there is an embedded one)"
        )
        return [wrong("MLflow", shown(str(error)), cure)]
    here = well("MLflow", f"{shown(uri)}: registry read and written")
    return [here, *_ledger(uri), _artifacts(), *_webhook()]


def _database(uri: str) -> Finding:
    """MLflow inside this process, on a database or a folder."""
    cure = f"correct {TRACKING} (without it there is an embedded one)"
    try:
        probe()
        if "://" in uri and not uri.startswith("file:"):
            _connect(uri)
        with mlflow_client() as client:
            client.search_registered_models(max_results=1)
    except ServiceError as error:
        return wrong("MLflow", shown(str(error)), cure)
    return well("MLflow", f"embedded, {shown(uri)}: registry read")


def _connect(uri: str) -> None:
    """Open the database once; MLflow itself would try for 100 s.

    Raises:
        ServiceError: It cannot be opened.
    """
    from sqlalchemy import create_engine, make_url  # noqa: PLC0415
    from sqlalchemy.exc import SQLAlchemyError  # noqa: PLC0415

    try:
        if "@" in (make_url(uri).host or ""):
            raise ServiceError(f"MLflow at {shown(uri)}: expected an @ in a password as %40")
        with environment({"PGCONNECT_TIMEOUT": "5"}, replace=False):
            create_engine(uri).connect().close()
    except (SQLAlchemyError, ImportError) as error:
        first = str(error).splitlines()[0]
        raise ServiceError(f"MLflow at {shown(uri)}: cannot be opened ({first})") from error


def _ledger(uri: str) -> list[Finding]:
    """Who shares a registry shares the ledger and the claims, which are in the store."""
    if store_uri().startswith("s3://") or urlsplit(uri).hostname in LOOPBACK:
        return []
    found = f"{store_uri()} is a folder of this machine, and {shown(uri)} is for all machines"
    cure = f"set {STORE} to s3://bucket/prefix: with a ledger for each machine two could promote"
    return [wrong("ledger", found, cure)]


def _artifacts() -> Finding:
    from mlflow.store.artifact.artifact_repository_registry import (  # noqa: PLC0415
        get_artifact_repository,
    )

    try:
        with mlflow_client() as client, tempfile.TemporaryDirectory() as folder:
            place = client.get_experiment("0").artifact_location
            if not place.startswith(("mlflow-artifacts:", "s3:")):
                found = f"MLflow keeps artifacts in {place}, a folder of its own machine"
                cure = "start it with --artifacts-destination s3://bucket/prefix"
                return wrong("artifacts", found, cure)
            Path(folder, "probe").write_bytes(b"probe")
            repository = get_artifact_repository(f"{place}/temper-doctor")
            repository.log_artifact(str(Path(folder, "probe")))  # type: ignore[no-untyped-call]
            repository.delete_artifacts("probe")  # type: ignore[no-untyped-call]
    except (BotoCoreError, Boto3Error, ClientError) as error:
        found = f"{place}: MLflow leaves it to its clients to write there ({error})"
        cure = f"start it with --serve-artifacts, or give this machine {KEYS} for the bucket"
        return wrong("artifacts", shown(found), cure)
    except (ServiceError, OSError) as error:
        cure = "see MLflow's log: its S3 address, keys and bucket (MLFLOW_ARTIFACTS_DESTINATION)"
        return wrong("artifacts", shown(str(error)), cure)
    return well("artifacts", f"{place}: written and deleted through MLflow")


def _webhook() -> list[Finding]:
    setup = f"python -m infra.setup http://RECEIVER:4300/mlflow, with {WEBHOOK_SECRET} set"
    try:
        with mlflow_client() as client:
            ours = [hook for hook in client.list_webhooks() if _tells_versions(hook)]
            if not ours:
                found = "MLflow tells nobody of new versions"
                used = bool(os.environ.get(WEBHOOK_SECRET))
                return [wrong("webhook", found, setup) if used else well("webhook", found)]
            return [_tried(client, hook.webhook_id, hook.url) for hook in ours]
    except ServiceError as error:
        cure = (
            "give MLflow the MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY that it had, or run infra.setup"
        )
        return [wrong("webhook", str(error), cure)]


def _tells_versions(hook: object) -> bool:
    return any(str(event) == "model_version.created" for event in getattr(hook, "events", ()))


def _tried(client: "MlflowClient", webhook: str, url: str) -> Finding:
    # MLflow repeats what fails, for up to half a minute: asking it again meanwhile only adds to it.
    patience = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "90", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
    with environment(patience, replace=True):
        answer = client.test_webhook(webhook, "model_version.created")
    if answer.success:
        return well("webhook", f"{url}: took a signed delivery of MLflow's")
    status = answer.response_status
    why = f"status {status}" if status else " ".join(str(answer.error_message).split())[:200]
    cure = WEBHOOK_CURES.get(
        status or 0, "start it: temper receive; MLflow must be able to reach it"
    )
    return wrong("webhook", f"{url}: MLflow's delivery was not taken ({why})", cure)
