"""Making a version the champion: the ledger decides, the alias in MLflow follows it.

1. read the ledger, and bring the alias in line with it: somebody may have been killed in between
2. the champion must be the one that the newcomer was compared with
3. create the next entry of the ledger: only one of all that try at once succeeds
4. move the alias; read the ledger again, until the alias is what its last entry says

Whoever is killed before 3 has changed nothing; after 3 the next one to come does 4 for them.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

from hardening.errors import BrokenPromise, ChampionChanged, ModelError
from tasks.ledger import Entry, Ledger
from tasks.settings import store_uri
from tasks.store import open_ground
from tasks.versions import CHAMPION, Registered, get, model, under_alias

if TYPE_CHECKING:
    from mlflow import MlflowClient

TRIES = 10
"""Times that writing the alias may fail: others write it, too."""

PATIENCE = 100
"""Times that a promoter looks again before it gives up: each time somebody else was quicker."""


def ledger_of(name: str) -> Ledger:
    """The ledger of the registered model `name`, in the store."""
    return Ledger(open_ground(store_uri()), name)


def reigning(client: "MlflowClient", name: str) -> Registered | None:
    """The champion of `name` by the ledger; by the alias, where no ledger has begun."""
    past = ledger_of(name).entries()
    if not past:
        return under_alias(client, name, CHAMPION)
    return _version(client, name, past[-1].version)


def promote(
    client: "MlflowClient",
    name: str,
    version: int,
    expected: Callable[[Registered | None], bool],
    reason: str,
) -> Entry | None:
    """Make `version` the champion of `name`; None if it is that already.

    Args:
        expected: Whether a champion is the one that the version was compared with, and beats.

    Raises:
        ChampionChanged: The champion is another one; nothing was changed.
        ModelError: There is no such version, or it was champion before: only `roll_back` goes back.
        ServiceError: MLflow or the store does not answer.
    """
    ledger = ledger_of(name)
    newcomer = _version(client, name, version)
    for _ in range(PATIENCE):
        past = _with_first(client, ledger)
        current = _version(client, name, past[-1].version) if past else None
        if current is not None and current.version == version:
            _follow(client, ledger)
            return None
        if any(entry.version == version for entry in past):
            raise ModelError(
                f"registered model {name!r}: version {version} was champion before, expected one "
                "that never was: see `temper history`, and `temper rollback` to go back"
            )
        if not expected(current):
            raise ChampionChanged(
                f"registered model {name!r}: champion changed since the comparison, got "
                f"{called(current)}, expected the one that was measured: to be compared anew"
            )
        entry = ledger.append(
            past,
            action="promote",
            version=version,
            replaces=current.version if current else None,
            evidence=newcomer.evidence or "",
            graph=newcomer.tags.get("temper.graph", ""),
            robust_accuracy=newcomer.tags.get("temper.robust_accuracy", ""),
            reason=reason,
        )
        if entry is not None:
            _follow(client, ledger)
            return entry
    raise BrokenPromise(f"registered model {name!r}: others were quicker {PATIENCE} times; again")


def roll_back(client: "MlflowClient", name: str, reason: str, version: int | None = None) -> Entry:
    """Make an earlier champion the champion again, the one before by default.

    Raises:
        ModelError: It never was champion, is it now, or there was none before.
        ServiceError: MLflow or the store does not answer.
    """
    ledger = ledger_of(name)
    for _ in range(PATIENCE):
        past = _with_first(client, ledger)
        goal = version if version is not None else _before(past, name)
        former = next((entry for entry in reversed(past) if entry.version == goal), None)
        if former is None or past[-1].version == goal:
            there = ", ".join(str(v) for v in dict.fromkeys(e.version for e in past)) or "none"
            state = "the champion now" if former else "never champion"
            raise ModelError(
                f"registered model {name!r}: version {goal} is {state}, expected an earlier "
                f"champion; champions so far: {there}"
            )
        _version(client, name, goal)  # it may have been deleted
        entry = ledger.append(
            past,
            action="roll back",
            version=goal,
            replaces=past[-1].version,
            evidence=former.evidence,
            graph=former.graph,
            robust_accuracy=former.robust_accuracy,
            reason=reason,
        )
        if entry is not None:
            _follow(client, ledger)
            return entry
    raise BrokenPromise(f"registered model {name!r}: others were quicker {PATIENCE} times; again")


def history(client: "MlflowClient", name: str) -> list[Entry]:
    """All changes of the champion; brings the alias in line with the last one.

    Raises:
        ModelError: There is no such registered model.
    """
    if model(client, name) is None:
        raise ModelError(f"registered model {name!r}: there is none of this name")
    ledger = ledger_of(name)
    _follow(client, ledger)
    return ledger.entries()


def called(found: Registered | None) -> str:
    """A champion in a sentence."""
    return "none" if found is None else f"version {found.version}"


def _with_first(client: "MlflowClient", ledger: Ledger) -> list[Entry]:
    """The ledger, that begins with the champion which somebody else had chosen, if there is one."""
    past = ledger.entries()
    if past:
        return past
    found = under_alias(client, ledger.model, CHAMPION)
    if found is None:
        return past
    ledger.append(
        past,
        action="adopt",
        version=found.version,
        replaces=None,
        evidence=found.evidence or "",
        graph=found.tags.get("temper.graph", ""),
        robust_accuracy=found.tags.get("temper.robust_accuracy", ""),
        reason="was champion when the ledger began",
    )
    return ledger.entries()


def _follow(client: "MlflowClient", ledger: Ledger) -> None:
    """Set the alias to what the last entry says, and look again: it may have become older."""
    from mlflow.exceptions import MlflowException  # noqa: PLC0415  a second, for nobody else

    failures = 0
    while past := ledger.entries():
        last = past[-1]
        found = under_alias(client, ledger.model, CHAMPION)
        if found is not None and found.version == last.version:
            if len(ledger.entries()) == len(past):
                return
            continue
        replaced = "none" if last.replaces is None else f"version {last.replaces}"
        version = str(last.version)
        try:
            client.set_model_version_tag(ledger.model, version, "temper.replaces", replaced)
            client.set_registered_model_alias(ledger.model, CHAMPION, version)
        except MlflowException:
            # Of two that write it for the first time both insert it, and one of them fails.
            failures += 1
            if failures == TRIES:
                raise


def _before(past: list[Entry], name: str) -> int:
    if not past or past[-1].replaces is None:
        raise ModelError(f"registered model {name!r}: there was no champion before, to go back to")
    return past[-1].replaces


def _version(client: "MlflowClient", name: str, version: int) -> Registered:
    found = get(client, name, version)
    if found is None:
        raise ModelError(f"registered model {name!r}: there is no version {version}")
    return found
