"""The champion of a registered model: the ledger decides, the registry follows it.

    alias `champion`        the version of the ledger's last entry
    tag `temper.ledger`     digest of that entry, and the store it lies in
    tag `temper.told`       how many entries Prefect was told of

They are written after the entry, and may be late: whoever comes next brings them up to date.
Everybody reads the registry first and the ledger afterwards: then whatever the registry says is in
the ledger, or the ledger is another one, or somebody wrote to either by hand.
"""

from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING, NamedTuple

from hardening.errors import BrokenPromise, ModelError, ServiceError
from tasks.console import say
from tasks.ledger import Entry, Holder, Ledger, digest
from tasks.settings import store_uri
from tasks.store import open_ground
from tasks.versions import CHAMPION, Registered, get, model

if TYPE_CHECKING:
    from mlflow import MlflowClient

HEAD = "temper.ledger"

TOLD = "temper.told"

TRIES = 10
"""Times that a write to the registry may fail: others write the same."""


class Reign(NamedTuple):
    """What registry and ledger say of a model; `alias` is the version under the alias, if any."""

    ledger: Ledger
    past: list[Entry]
    alias: int | None
    head: str
    told: int

    @property
    def champion(self) -> int | None:
        """The champion by the ledger; by the alias, where no ledger has begun."""
        return self.past[-1].version if self.past else self.alias

    @property
    def by_hand(self) -> bool:
        """Whether the alias is at a version that never was champion by the ledger."""
        return self.alias is not None and self.alias not in {e.version for e in self.past}

    @property
    def followed(self) -> bool:
        """Whether alias and tag are what the last entry says."""
        last = self.past[-1]
        return (self.alias, self.head) == (last.version, digest(last))


def look(client: "MlflowClient", name: str) -> Reign:
    """What registry and ledger say of `name`; nothing is changed.

    Raises:
        ModelError: There is no such registered model.
        BrokenPromise: The ledger was tampered with, or it is not the one in this store.
        ServiceError: MLflow or the store does not answer.
    """
    there = model(client, name)
    if there is None:
        raise ModelError(f"registered model {name!r}: there is none of this name")
    ledger = Ledger(open_ground(store_uri()), name, int(there.creation_timestamp))
    past = ledger.entries()
    head, _, address = there.tags.get(HEAD, "").partition(" ")
    if head and head not in map(digest, past):
        cure = "restore it from a backup"
        if address != ledger.address:
            cure = f"set TEMPER_STORE to {address}, or copy the ledger from there"
        raise BrokenPromise(
            f"registered model {name!r}: the ledger in {ledger.address} lacks the entry "
            f"{head[:12]} that was written to {address}, or it was changed: {cure}"
        )
    alias = there.aliases.get(CHAMPION)
    told = int(there.tags.get(TOLD, "0"))
    return Reign(ledger, past, None if alias is None else int(alias), head, told)


def obeyed(client: "MlflowClient", name: str) -> Reign:
    """What `look` finds, unless somebody moved the alias by hand.

    An alias at an earlier champion may be late, and is no sign of a hand.

    Raises:
        BrokenPromise: The ledger has begun, and does not know the version under the alias.
    """
    reign = look(client, name)
    if reign.past and reign.by_hand:
        raise BrokenPromise(
            f"registered model {name!r}: version {reign.alias} was made champion by hand, expected "
            f"version {reign.champion} as in the ledger: `temper rollback {name} --reason TEXT` "
            f"goes back to that, with `--to {reign.alias}` it is kept and recorded"
        )
    return reign


def reigning(client: "MlflowClient", name: str) -> Registered | None:
    """The champion of `name`; None if there is no such model or champion."""
    if model(client, name) is None:
        return None
    version = obeyed(client, name).champion
    return None if version is None else existing(client, name, version)


def since(client: "MlflowClient", name: str) -> float | None:
    """When the champion became it, seconds of the clock; None if there is none.

    Of one that somebody else chose before the ledger began it is when it was registered.
    """
    if model(client, name) is None:
        return None
    reign = look(client, name)
    if reign.past:
        return datetime.fromisoformat(reign.past[-1].when).timestamp()
    return None if reign.alias is None else existing(client, name, reign.alias).created


def follow(client: "MlflowClient", name: str) -> Reign:
    """Set alias and tag to what the last entry says, and tell Prefect of what it was not told.

    Returns:
        What registry and ledger say now.

    Raises:
        ModelError: There is no such registered model.
        BrokenPromise: As `obeyed`.
        ServiceError: MLflow or the store does not answer.
    """
    # Again after each write: another one's entry may be newer, and its alias older than ours.
    while (reign := obeyed(client, name)).past and not reign.followed:
        last, version = reign.past[-1], str(reign.past[-1].version)
        replaced = "none" if last.replaces is None else f"version {last.replaces}"
        _write(
            client.set_registered_model_tag, name, HEAD, f"{digest(last)} {reign.ledger.address}"
        )
        _write(client.set_model_version_tag, name, version, "temper.replaces", replaced)
        _write(client.set_registered_model_alias, name, CHAMPION, version)
    _tell(client, name, reign)
    return reign


def holder(found: Registered) -> Holder:
    """A version as the ledger writes it down."""
    return Holder(
        found.version,
        found.evidence or "",
        found.tags.get("temper.graph", ""),
        found.tags.get("temper.robust_accuracy", ""),
    )


def existing(client: "MlflowClient", name: str, version: int) -> Registered:
    """One version of `name`.

    Raises:
        ModelError: There is none.
    """
    found = get(client, name, version)
    if found is None:
        raise ModelError(f"registered model {name!r}: there is no version {version}")
    return found


def _tell(client: "MlflowClient", name: str, reign: Reign) -> None:
    if reign.told >= len(reign.past):
        return
    from tasks import events  # noqa: PLC0415  Prefect takes a second

    try:
        for entry in reign.past[reign.told :]:
            events.tell_surely(events.promoted(name, entry.version, entry.reason, digest(entry)))
    except ServiceError as error:
        # The champion is what it should be; a notification is no reason to say otherwise.
        say(f"{name}: {error}; the next run will tell it")
        return
    _write(client.set_registered_model_tag, name, TOLD, str(len(reign.past)))


def _write(write: Callable[..., object], *arguments: str) -> None:
    """Of two that write something for the first time both insert it, and one fails: again."""
    from mlflow.exceptions import MlflowException  # noqa: PLC0415  a second, for nobody else

    for left in reversed(range(TRIES)):
        try:
            write(*arguments)
        except MlflowException:
            if not left:
                raise
        else:
            return
