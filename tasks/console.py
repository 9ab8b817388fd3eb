"""What a person sees while steps run: progress bars on a terminal, plain lines elsewhere."""

import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from functools import cache

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bars
from rich.text import Text

from hardening.log import Progress, Silent

PLAIN_INTERVAL = 15.0
"""Seconds between two plain progress lines where there is no terminal."""


@cache
def console() -> Console:
    """The one console: everything a person reads goes to standard error."""
    return Console(stderr=True, highlight=False, soft_wrap=True)


def say(text: str) -> None:
    """Print one plain line."""
    console().print(text, markup=False)


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(_rate(task.speed or 0.0, task.fields["unit"]))


@cache
def _bars() -> Bars:
    return Bars(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        _Rate(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=console(),
        transient=True,
    )


@contextmanager
def progress(what: str, total: int, unit: str) -> Iterator[Progress]:
    """Show how far `what` is: a bar with rate and time left, or a line now and then.

    A total of 0 is one that nobody knows: then there is no time left to tell.
    """
    if not console().is_terminal:
        yield _Plain(what, total, unit)
        return
    bars = _bars()
    if not bars.live.is_started:
        bars.start()
    task = bars.add_task(what, total=total or None, unit=unit, note="")
    try:
        yield lambda done=1, note="": bars.update(task, advance=done, note=note)
    finally:
        bars.remove_task(task)
        if not bars.tasks:
            bars.stop()


class _Plain:
    """Progress as lines, the first one after `PLAIN_INTERVAL` seconds."""

    def __init__(self, what: str, total: int, unit: str) -> None:
        self.what, self.total, self.unit = what, total, unit
        self.done = 0
        self.started = self.said = time.monotonic()

    def __call__(self, done: int = 1, note: str = "") -> None:
        self.done += done
        now = time.monotonic()
        if now - self.said < PLAIN_INTERVAL:
            return
        self.said = now
        speed = self.done / (now - self.started)
        said = [f"{self.done}/{self.total}" if self.total else f"{self.done} {self.unit}"]
        said.append(_rate(speed, self.unit))
        if self.total and speed:
            said.append(f"{max(0.0, self.total - self.done) / speed:.0f} s left")
        say(f"  {self.what}: {', '.join([*said, *([note] if note else [])])}")


def _rate(speed: float, unit: str) -> str:
    if unit == "B":
        return f"{speed / 1e6:.1f} MB/s"
    return f"{speed:.1f} {unit}/s" if speed >= 1 or speed == 0 else f"{1 / speed:.1f} s/{unit}"


def metrics_line(step: int, values: Mapping[str, float]) -> str:
    """An epoch's numbers as one line."""
    numbers = ", ".join(f"{name} {value:.4g}" for name, value in values.items())
    return f"(epoch {step}: {numbers})"


class ConsoleLog(Silent):
    """Lines and progress for a person; nothing is kept."""

    def line(self, text: str) -> None:
        """Say one thing."""
        say(text)

    def chose(self, text: str) -> None:
        """Say what was chosen."""
        say(text)

    def progress(self, what: str, total: int, unit: str) -> AbstractContextManager[Progress]:
        """Open a progress bar over `total` units."""
        return progress(what, total, unit)
