"""Making a version the champion, of whatever many that try at once.

1. read the ledger, and bring the registry in line with it: somebody may have been killed
2. the champion must be the one that the newcomer was compared with
3. create the next entry of the ledger: only one of all that try at once succeeds
4. bring the registry in line with it

Whoever is killed before 3 has changed nothing; after 3 the next one to come does 4 for them.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

from hardening.errors import BrokenPromise, ChampionChanged, ModelError
from tasks.champion import Reign, existing, follow, holder, look
from tasks.ledger import Entry
from tasks.versions import Registered

if TYPE_CHECKING:
    from mlflow import MlflowClient

PATIENCE = 100
"""Times that a promoter looks again before it gives up: each time somebody else was quicker."""


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
        ModelError: There is no such version, or it may not be promoted: see `barred`.
        BrokenPromise: The ledger was tampered with, is another one, or the alias was moved by hand.
        ServiceError: MLflow or the store does not answer.
    """
    newcomer = existing(client, name, version)
    for _ in range(PATIENCE):
        # Nothing is appended to an entry of which the registry does not know.
        reign = follow(client, name)
        if reign.by_hand:
            _adopt(client, reign, "was champion when the ledger began")
            continue
        if reign.champion == version:
            return None
        if why := _barred(reign.past, newcomer):
            raise ModelError(f"registered model {name!r}: version {version} {why}")
        current = None if reign.champion is None else existing(client, name, reign.champion)
        if not expected(current):
            raise ChampionChanged(
                f"registered model {name!r}: champion changed since the comparison, got "
                f"{called(current)}, expected the one that was measured: to be compared anew"
            )
        entry = reign.ledger.append(reign.past, "promote", holder(newcomer), reason)
        if entry is not None:
            follow(client, name)
            return entry
    raise _outrun(name)


def barred(client: "MlflowClient", name: str, version: int) -> str:
    """Why a version may not be promoted, whatever it measures; empty if it may.

    What was champion before comes back by `roll_back` alone, and what was rolled back does not
    come back under another number.
    """
    return _barred(look(client, name).past, existing(client, name, version))


def roll_back(client: "MlflowClient", name: str, reason: str, version: int | None = None) -> Entry:
    """Make an earlier champion the champion again, by default the one before.

    Those that were rolled back are not gone to by default. A champion that was chosen by hand is
    recorded first; rolled back to, it is kept.

    Raises:
        ModelError: It never was champion, is it now, or there was none before.
        ServiceError: MLflow or the store does not answer.
    """
    for _ in range(PATIENCE):
        reign = look(client, name)
        if reign.by_hand:
            entry = _adopt(client, reign, reason)
            if entry is None or entry.version != version:
                continue
        else:
            goal = version if version is not None else _before(reign.past, name)
            former = _former(reign.past, name, goal)
            existing(client, name, goal)  # it may have been deleted
            entry = reign.ledger.append(reign.past, "roll back", former.holder, reason)
        if entry is not None:
            follow(client, name)
            return entry
    raise _outrun(name)


def called(found: Registered | None) -> str:
    """A champion in a sentence."""
    return "none" if found is None else f"version {found.version}"


def _adopt(client: "MlflowClient", reign: Reign, reason: str) -> Entry | None:
    """Record the champion that somebody else chose; None when somebody was quicker to record."""
    found = existing(client, reign.ledger.model, reign.alias or 0)
    return reign.ledger.append(reign.past, "adopt", holder(found), reason)


def _standing(past: list[Entry]) -> list[int]:
    """The champions up to the current one without those that were rolled back."""
    stack: list[int] = []
    for entry in past:
        if entry.action == "roll back" and entry.version in stack:
            del stack[stack.index(entry.version) :]
        stack.append(entry.version)
    return stack


def _barred(past: list[Entry], newcomer: Registered) -> str:
    if past and past[-1].version == newcomer.version:
        return ""
    if any(entry.version == newcomer.version for entry in past):
        return "was champion before: see `temper history`, and `temper rollback` to go back"
    graph, standing = holder(newcomer).graph, _standing(past)
    for entry in past:
        if graph and entry.graph == graph and entry.version not in standing:
            return (
                f"has the graph of version {entry.version}, which was rolled back: "
                f"`temper rollback --to {entry.version}` takes that back"
            )
    return ""


def _before(past: list[Entry], name: str) -> int:
    standing = _standing(past)
    if len(standing) < 2:
        raise ModelError(f"registered model {name!r}: there was no champion before, to go back to")
    return standing[-2]


def _former(past: list[Entry], name: str, goal: int) -> Entry:
    former = next((entry for entry in reversed(past) if entry.version == goal), None)
    if former is None or past[-1].version == goal:
        there = ", ".join(str(v) for v in dict.fromkeys(e.version for e in past)) or "none"
        state = "the champion now" if former else "never champion"
        raise ModelError(
            f"registered model {name!r}: version {goal} is {state}, expected an earlier "
            f"champion; champions so far: {there}"
        )
    return former


def _outrun(name: str) -> BrokenPromise:
    return BrokenPromise(f"registered model {name!r}: others were quicker {PATIENCE} times; again")
