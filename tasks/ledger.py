"""Who was made champion of a registered model, when, by whom and on what evidence.

The aliases of MLflow know no compare-and-set: of two that promote at once the later write wins,
whatever it is worth. A ledger does: its entry n is created by whoever comes first, and by nobody
after that, in a folder as in S3. Each entry names the digest of the one before, and the registered
model carries that of the newest (see `tasks.champion`): nobody who can write to the store alone
changes or removes an entry unseen. A model that is deleted and registered again has a new ledger.
"""

import getpass
import hashlib
import re
import socket
from datetime import UTC, datetime
from typing import Literal, NamedTuple

from pydantic import ValidationError

from hardening.errors import BrokenPromise
from hardening.spec import Record, one_line
from tasks.store import Ground

FIRST = ""
"""What the first entry names as the digest of the one before."""

Action = Literal["promote", "roll back", "adopt"]


class Holder(NamedTuple):
    """A version that is or becomes champion.

    `evidence` and `graph` are digests: of the evidence that it was promoted on, and of the file's
    graph; empty where nobody knows, as of a champion that somebody else chose.
    """

    version: int
    evidence: str = ""
    graph: str = ""
    robust_accuracy: str = ""


class Entry(Record):
    """One change of the champion, to a `Holder`.

    `replaces` is the version that was champion before, None for none. `adopt` records a champion
    that was chosen by hand, in MLflow.
    """

    number: int
    previous: str
    model: str
    action: Action
    version: int
    replaces: int | None
    evidence: str
    graph: str
    robust_accuracy: str
    reason: str
    who: str
    when: str

    @property
    def holder(self) -> Holder:
        """Who is champion by this entry."""
        return Holder(self.version, self.evidence, self.graph, self.robust_accuracy)


class Ledger:
    """The ledger of one model, in the ground of a store.

    All methods raise ServiceError when the ground cannot be reached, read or written.
    """

    def __init__(self, ground: Ground, model: str, made: int) -> None:
        """Nothing is read or written yet.

        Args:
            model: Name of the registered model.
            made: When it was registered, milliseconds of the registry's clock.
        """
        self.model, self.address = model, ground.uri
        self._ground = ground
        # Two names must not share a folder, whatever signs they hold.
        plain = re.sub(r"[^A-Za-z0-9._-]", "_", model)[:60]
        self._folder = f"ledger/{plain}-{hashlib.sha256(model.encode()).hexdigest()[:8]}-{made}"

    def entries(self) -> list[Entry]:
        """All entries up to the first that is missing, the oldest first.

        Raises:
            BrokenPromise: An entry does not parse, or does not follow from the one before.
        """
        found: list[Entry] = []
        previous = FIRST
        while (data := self._ground.read(self._name(len(found)))) is not None:
            place = f"ledger of {self.model!r}, entry {len(found)}"
            try:
                entry = Entry.model_validate_json(data)
            except ValidationError as error:
                raise BrokenPromise(one_line(error, place)) from error
            told = (entry.number, entry.previous, entry.model)
            if told != (len(found), previous, self.model):
                raise BrokenPromise(
                    f"{place}: got number {entry.number} of {entry.model!r} after "
                    f"{entry.previous[:12]!r}, expected {len(found)} of {self.model!r} after "
                    f"{previous[:12]!r}: somebody changed the past"
                )
            found.append(entry)
            previous = digest(entry)
        return found

    def append(
        self, past: list[Entry], action: Action, holder: Holder, reason: str
    ) -> Entry | None:
        """Add an entry after `past`; None when somebody else was quicker: read, and think again."""
        entry = Entry(
            number=len(past),
            previous=digest(past[-1]) if past else FIRST,
            model=self.model,
            action=action,
            replaces=past[-1].version if past else None,
            reason=reason,
            who=_who(),
            when=datetime.now(UTC).isoformat(timespec="seconds"),
            **holder._asdict(),
        )
        return entry if self._ground.create(self._name(len(past)), _bytes(entry)) else None

    def _name(self, number: int) -> str:
        return f"{self._folder}/{number:08d}.json"


def digest(entry: Entry) -> str:
    """sha256 of an entry as it lies in the store."""
    return hashlib.sha256(_bytes(entry)).hexdigest()


def _bytes(entry: Entry) -> bytes:
    return entry.model_dump_json(indent=1).encode()


def _who() -> str:
    """User and machine, which say little in a container, and the Prefect run where there is one."""
    from prefect.runtime import flow_run  # noqa: PLC0415  a second, for nobody who only reads

    run = f" in run {flow_run.id}" if flow_run.id else ""
    return f"{getpass.getuser()}@{socket.gethostname()}{run}"
