"""Versions of a registered model that somebody else registered, and how far we are with each.

no temper.verdict                     to be evaluated, unless temper.recipe says that we made it
temper.hardening "due", and judged    its candidates are still to be run
temper.verdict                        done: passed, failed, or refused and why
"""

from typing import Literal

from hardening.errors import ModelError
from hardening.spec import Record
from tasks.mlflow_client import mlflow_client
from tasks.publish import Published
from tasks.tags import RECIPE
from tasks.versions import VERDICT, Registered, every, get, model

HARDENING = "temper.hardening"
"""The tag of a version whose file is hardened, too: `due`, then what became of it."""

DUE = "due"

LONGEST = 1000
"""Most characters of a tag that says why."""

Work = Literal["evaluate", "harden"]


class Taken(Record):
    """What became of a version that arrived.

    `outcome`: somebody was `done` with it, is `busy` with it, or it was `judged` or `refused` now.
    `verdict` is its tag. `published` is its evaluation, `hardened` the run of the candidates.
    """

    version: int
    outcome: Literal["done", "busy", "judged", "refused"]
    verdict: str
    published: Published | None = None
    hardened: Published | None = None


class Swept(Record):
    """What a sweep found: versions that were registered from files, and what became of each."""

    registered: list[int]
    taken: list[Taken]


def look(name: str, version: int) -> Registered:
    """One version as the registry has it now.

    Raises:
        ModelError: There is none.
        ServiceError: MLflow does not answer or refuses.
    """
    with mlflow_client() as client:
        found = get(client, name, version)
        if found is None:
            there = "no such version" if model(client, name) else "no such registered model"
            raise ModelError(f"registered model {name!r}, version {version}: {there}")
        return found


def due(found: Registered) -> Work | None:
    """What is still to be done with a version."""
    verdict = found.tags.get(VERDICT)
    if verdict is None:
        return None if RECIPE in found.tags else "evaluate"
    hardening = found.tags.get(HARDENING) == DUE and verdict in {"passed", "failed"}
    return "harden" if hardening else None


def waiting(name: str) -> list[int]:
    """The versions of `name` with which something is still to be done, the oldest first.

    Raises:
        ServiceError: MLflow does not answer or refuses.
    """
    with mlflow_client() as client:
        return [found.version for found in every(client, name) if due(found)]


def refuse(found: Registered, why: str) -> str:
    """Tag a version whose file cannot be evaluated; the verdict."""
    verdict = f"refused: {' '.join(why.split())}"[:LONGEST]
    _tag(found, VERDICT, verdict)
    return verdict


def plan_hardening(found: Registered) -> None:
    """Note that the candidates are to be run on a version, so that a kill does not lose it."""
    _tag(found, HARDENING, DUE)


def note_hardening(found: Registered, version: int | None) -> None:
    """Note what the candidates became."""
    _tag(found, HARDENING, f"version {version}")


def _tag(found: Registered, tag: str, text: str) -> None:
    with mlflow_client() as client:
        client.set_model_version_tag(found.name, str(found.version), tag, text)
