"""Who was made champion of a registered model, when, by whom and on what evidence.

The aliases of MLflow know no compare-and-set: of two that promote at once the later write wins,
whatever it is worth. A ledger does: its entry n is created by whoever comes first, and by nobody
after that, in a folder as in S3. Each entry names the digest of the one before, so that the past
cannot be changed unseen. The champion is the version of the last entry; the alias follows.
"""

import getpass
import hashlib
import re
import socket
from datetime import UTC, datetime
from typing import Literal

from pydantic import ValidationError

from hardening.errors import BrokenPromise
from hardening.spec import Record, one_line
from tasks.store import Ground

FIRST = ""
"""What the first entry names as the digest of the one before."""

Action = Literal["promote", "roll back", "adopt"]


class Entry(Record):
    """One change of the champion.

    `replaces` is the version that was champion before, None for none. `evidence` and `graph` are
    digests: of the evidence that it was promoted on, and of the file's graph; empty where nobody
    knows, as of a champion that somebody else chose before there was a ledger.
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


class Ledger:
    """The ledger of one model, in the ground of a store.

    All methods raise ServiceError when the ground cannot be reached, read or written.
    """

    def __init__(self, ground: Ground, model: str) -> None:
        """Nothing is read or written yet."""
        self.model = model
        self._ground = ground
        # Two names must not share a folder, whatever signs they hold.
        plain = re.sub(r"[^A-Za-z0-9._-]", "_", model)[:60]
        self._folder = f"ledger/{plain}-{hashlib.sha256(model.encode()).hexdigest()[:8]}"

    def entries(self) -> list[Entry]:
        """All entries, the oldest first.

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
            previous = hashlib.sha256(data).hexdigest()
        return found

    def append(
        self,
        past: list[Entry],
        *,
        action: Action,
        version: int,
        replaces: int | None,
        evidence: str = "",
        graph: str = "",
        robust_accuracy: str = "",
        reason: str = "",
    ) -> Entry | None:
        """Add an entry after `past`; None when somebody else was quicker: read, and think again."""
        entry = Entry(
            number=len(past),
            previous=hashlib.sha256(_bytes(past[-1])).hexdigest() if past else FIRST,
            model=self.model,
            action=action,
            version=version,
            replaces=replaces,
            evidence=evidence,
            graph=graph,
            robust_accuracy=robust_accuracy,
            reason=reason,
            who=f"{getpass.getuser()}@{socket.gethostname()}",
            when=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        return entry if self._ground.create(self._name(len(past)), _bytes(entry)) else None

    def _name(self, number: int) -> str:
        return f"{self._folder}/{number:08d}.json"


def _bytes(entry: Entry) -> bytes:
    return entry.model_dump_json(indent=1).encode()
