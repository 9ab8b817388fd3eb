"""What long work tells its caller: lines, progress, numbers, and a place to resume from."""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple, Protocol

from torch import Tensor


class Checkpoint(NamedTuple):
    """Where a training stands: flat tensors, and numbers that JSON can hold."""

    tensors: Mapping[str, Tensor]
    numbers: Mapping[str, float]


class Progress(Protocol):
    """Counts work done; `note` replaces the short text beside the bar."""

    def __call__(self, done: int = 1, note: str = "") -> None:
        """Count `done` more units."""


class Log(Protocol):
    """Handed to defenses and attacks' drivers by whoever runs them."""

    def line(self, text: str) -> None:
        """Say one thing that a reader of the log needs to know."""

    def chose(self, text: str) -> None:
        """Say what was chosen for the user, and why: evidence and report say it, too."""

    def progress(self, what: str, total: int, unit: str) -> AbstractContextManager[Progress]:
        """Open a progress bar over `total` units; 0 if nobody knows how many."""

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Record numbers of an epoch."""

    def save(self, checkpoint: Checkpoint) -> None:
        """Keep a checkpoint; replaces the one before, atomically."""

    def restore(self) -> Checkpoint | None:
        """The last checkpoint of this very piece of work, if there is one."""


def _uncounted(done: int = 1, note: str = "") -> None:
    """Progress that nobody looks at."""


class Silent:
    """A log that says and keeps nothing: for tests and for use as a library."""

    def line(self, text: str) -> None:
        """Say nothing."""

    def chose(self, text: str) -> None:
        """Say nothing."""

    def progress(self, what: str, total: int, unit: str) -> AbstractContextManager[Progress]:  # noqa: ARG002
        """Count nothing."""
        return nullcontext(_uncounted)

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Record nothing."""

    def save(self, checkpoint: Checkpoint) -> None:
        """Keep nothing."""

    def restore(self) -> Checkpoint | None:
        """There is never anything to resume from."""
        return None


class Relay:
    """Passes everything on to another log: a base for what changes a part of it."""

    def __init__(self, log: Log) -> None:
        self.log = log

    def line(self, text: str) -> None:
        """Say one thing there."""
        self.log.line(text)

    def chose(self, text: str) -> None:
        """Say there what was chosen."""
        self.log.chose(text)

    def progress(self, what: str, total: int, unit: str) -> AbstractContextManager[Progress]:
        """Open a progress bar there."""
        return self.log.progress(what, total, unit)

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Record numbers there."""
        self.log.metrics(step, values)

    def save(self, checkpoint: Checkpoint) -> None:
        """Keep a checkpoint there."""
        self.log.save(checkpoint)

    def restore(self) -> Checkpoint | None:
        """The last checkpoint kept there."""
        return self.log.restore()
