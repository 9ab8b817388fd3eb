"""Versions of a registered model that somebody else registered, and how far we are with each.

no temper.verdict                     to be evaluated, unless temper.recipe says that we made it
temper.hardening "due", and judged    its candidates are still to be run
temper.verdict                        done: passed, failed, or refused and why
temper.attempts                       "N until SECONDS": failed tries, and when the next one may be
"""

import re
import time
from datetime import UTC, datetime
from typing import Literal, NamedTuple

from hardening.errors import ModelError
from hardening.spec import Record
from tasks import events
from tasks.mlflow_client import mlflow_client
from tasks.publish import Published
from tasks.tags import RECIPE
from tasks.versions import VERDICT, Registered, every, get, model

HARDENING = "temper.hardening"
"""The tag of a version whose file is hardened, too: `due`, then what became of it."""

DUE = "due"

LONGEST = 1000
"""Most characters of a tag that says why."""

ATTEMPTS = "temper.attempts"
"""The tag of a version with which something is being tried, or was and failed."""

FIRST_WAIT, LONGEST_WAIT = 600, 24 * 3600
"""Seconds from the begin of the first try to the next one, doubled each time, and the most."""

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


def waiting(name: str, work: Work) -> list[Registered]:
    """The versions of `name` with which `work` is still to be done, the oldest first.

    Raises:
        ServiceError: MLflow does not answer or refuses.
    """
    with mlflow_client() as client:
        return [found for found in every(client, name) if due(found) == work]


class Attempts(NamedTuple):
    """How often something was tried, and when it may be tried again, seconds of the clock."""

    made: int
    until: float

    def __str__(self) -> str:
        """For the log."""
        return f"{self.made}, the next after {datetime.fromtimestamp(self.until, UTC):%F %T} UTC"


def attempts(found: Registered) -> Attempts:
    """What the tag of a version says; one that is not ours says nothing."""
    said = re.fullmatch(r"(\d{1,6}) until (\d{1,10})", found.tags.get(ATTEMPTS, ""))
    return Attempts(int(said[1]), float(said[2])) if said else Attempts(0, 0.0)


def begin_attempt(found: Registered) -> Attempts:
    """Count a try before it begins, so that one which is killed counts, too."""
    made = attempts(found).made + 1
    wait = min(FIRST_WAIT * 2 ** min(made - 1, 20), LONGEST_WAIT)
    begun = Attempts(made, time.time() + wait)
    _tag(found, ATTEMPTS, f"{begun.made} until {begun.until:.0f}")
    return begun


def end_attempts(found: Registered) -> None:
    """Forget the tries: the last one came to an end."""
    with mlflow_client() as client:
        client.delete_model_version_tag(found.name, str(found.version), ATTEMPTS)


def refuse(found: Registered, why: str) -> str:
    """Tag a version whose file cannot be evaluated, and tell of it; the verdict."""
    reason = " ".join(why.split())
    verdict = f"refused: {reason}"[:LONGEST]
    _tag(found, VERDICT, verdict)
    events.tell(events.unfit(found.name, found.version, reason[:LONGEST]))
    return verdict


def plan_hardening(found: Registered) -> None:
    """Note that the candidates are to be run on a version, so that a kill does not lose it."""
    _tag(found, HARDENING, DUE)


def tell_hardening(found: Registered) -> None:
    """Tell who runs the candidates that a version is judged and waits for them."""
    events.tell(events.due(found.name, found.version))


def note_hardening(found: Registered, version: int | None) -> None:
    """Note what the candidates became."""
    _tag(found, HARDENING, f"version {version}")


def _tag(found: Registered, tag: str, text: str) -> None:
    with mlflow_client() as client:
        client.set_model_version_tag(found.name, str(found.version), tag, text)
