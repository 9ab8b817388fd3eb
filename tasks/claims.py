"""One at a time, on any machine: a claim on a piece of work, kept alive while the work runs.

    claims/<key>/<n>     who has the work, and until when; released: until 0

Each entry is created by whoever comes first. Before the last one has run out only its holder adds
the next, a later `until`; after that anybody may. A holder that is killed adds nothing more: its
work is taken over when its claim has run out. Entries stay, so that nobody can take an old one for
the last. The clocks of all machines must agree to within a third of a claim's length.
"""

import getpass
import os
import re
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event, Thread
from uuid import uuid4

from pydantic import ValidationError

from hardening.errors import BrokenPromise, ServiceError
from hardening.spec import Record, one_line
from tasks.console import say
from tasks.store import Ground


class Entry(Record):
    """One entry of a claim; `until` is in seconds of the clock, and past when it is released."""

    who: str
    until: float


@contextmanager
def claim(ground: Ground, key: str, seconds: float) -> Iterator[bool]:
    """Claim the work `key` while the block runs; whether it is ours, or somebody else's.

    Args:
        ground: Where all who might do the work look.
        seconds: How long the claim outlives a holder that was killed. It is renewed three times
            in that time.

    Raises:
        BrokenPromise: An entry does not parse.
        ServiceError: The ground cannot be reached, read or written.
    """
    folder = f"claims/{_checked(key)}"
    who = f"{getpass.getuser()}@{socket.gethostname()} {os.getpid()} {uuid4().hex}"
    number = _taken(ground, folder, who, seconds)
    if number is None:
        yield False
        return
    holding = _Holding(ground, folder, who, seconds, number)
    done = Event()
    renewal = Thread(target=holding.renew, args=(done,), name=f"claim {key}", daemon=True)
    renewal.start()
    try:
        yield True
    finally:
        done.set()
        renewal.join()
        holding.extend(until=0.0)


class _Holding:
    """A claim that is ours: its last entry's number, until somebody else adds one."""

    def __init__(self, ground: Ground, folder: str, who: str, seconds: float, number: int) -> None:
        self._ground, self._folder, self._who = ground, folder, who
        self._seconds, self._number = seconds, number

    def renew(self, done: Event) -> None:
        """Extend the claim until `done`, or until somebody else has it."""
        while not done.wait(self._seconds / 3):
            if not self.extend(time.time() + self._seconds):
                say(f"{self._folder}: not renewed in time, somebody else may do this work, too")
                return

    def extend(self, until: float) -> bool:
        """Add an entry; False when somebody else has the claim.

        A service that fails is told and no more: the claim runs out by itself if it stays so.
        """
        data = _bytes(Entry(who=self._who, until=until))
        try:
            ours = self._ground.create(_name(self._folder, self._number + 1), data)
        except ServiceError as error:
            say(f"{self._folder}: cannot be renewed or released: {error}")
            return True
        self._number += ours
        return ours


def _taken(ground: Ground, folder: str, who: str, seconds: float) -> int | None:
    """The number of our first entry, None while somebody else has the claim."""
    last = _last(ground, folder)
    if last >= 0 and _read(ground, folder, last).until > time.time():
        return None
    data = _bytes(Entry(who=who, until=time.time() + seconds))
    return last + 1 if ground.create(_name(folder, last + 1), data) else None


def _last(ground: Ground, folder: str) -> int:
    """The number of the last entry, -1 if there is none: doubled steps, then halved ones."""

    def there(number: int) -> bool:
        return ground.size(_name(folder, number)) is not None

    if not there(0):
        return -1
    low, step = 0, 1
    while there(low + step):
        low, step = low + step, step * 2
    high = low + step
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if there(middle) else (low, middle)
    return low


def _read(ground: Ground, folder: str, number: int) -> Entry:
    name = _name(folder, number)
    try:
        return Entry.model_validate_json(ground.read(name) or b"")
    except ValidationError as error:
        raise BrokenPromise(one_line(error, f"{ground.uri}/{name}")) from error


def _name(folder: str, number: int) -> str:
    return f"{folder}/{number:08d}.json"


def _bytes(entry: Entry) -> bytes:
    return entry.model_dump_json().encode()


def _checked(key: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}", key):
        raise ValueError(f"claim: got {key!r}, expected letters, digits, '.', '_' or '-'")
    return key
