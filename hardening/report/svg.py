"""Pieces of SVG markup; every text is escaped. Coordinates are in user units."""

from collections.abc import Sequence
from html import escape
from math import floor, log10
from typing import NamedTuple

COLOURS = 8
DASHES = ("none", "7 3", "2 3", "9 3 2 3", "4 2")
MARKS = ("circle", "square", "triangle", "diamond", "star", "wedge", "plus")


CORNERS = {
    "square": ((-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)),
    "triangle": ((0, -1.2), (1.15, 0.9), (-1.15, 0.9)),
    "diamond": ((0, -1.3), (1.3, 0), (0, 1.3), (-1.3, 0)),
    "wedge": ((0, 1.2), (1.15, -0.9), (-1.15, -0.9)),
    "star": (
        *((0, -1.5), (0.4, -0.4), (1.5, 0), (0.4, 0.4)),
        *((0, 1.5), (-0.4, 0.4), (-1.5, 0), (-0.4, -0.4)),
    ),
    "plus": (
        *((-0.4, -1.3), (0.4, -1.3), (0.4, -0.4), (1.3, -0.4), (1.3, 0.4), (0.4, 0.4)),
        *((0.4, 1.3), (-0.4, 1.3), (-0.4, 0.4), (-1.3, 0.4), (-1.3, -0.4), (-0.4, -0.4)),
    ),
}
"""Corners of the signs, in units of their size."""


class Scale(NamedTuple):
    """A linear map of numbers to coordinates."""

    lower: float
    upper: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """Where `value` is drawn."""
        share = (value - self.lower) / (self.upper - self.lower)
        return self.start + share * (self.end - self.start)


def figure(width: float, height: float, label: str, content: Sequence[str]) -> str:
    """An `svg` element that scales with its place and says `label` to those who cannot see it."""
    return (
        f'<svg viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{escape(label)}">'
        f"{''.join(content)}</svg>"
    )


def text(x: float, y: float, content: str, css: str = "", anchor: str = "start") -> str:
    """A line of text with its baseline at `y`."""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" class="{css}" text-anchor="{anchor}">'
        f"{escape(content)}</text>"
    )


def line(x1: float, y1: float, x2: float, y2: float, css: str) -> str:
    """A straight line."""
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{css}"/>'


def rectangle(x: float, y: float, width: float, height: float, css: str) -> str:
    """A rectangle with slightly rounded corners."""
    return (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" rx="2" '
        f'class="{css}"/>'
    )


def path(points: Sequence[tuple[float, float]], css: str, style: int) -> str:
    """A line through `points`, dashed as `style` says."""
    steps = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    dash = DASHES[style % len(DASHES)]
    return f'<polyline points="{steps}" class="{css}" stroke-dasharray="{dash}"/>'


def mark(x: float, y: float, style: int, size: float = 4.5) -> str:
    """The sign of series number `style`: its own shape beside its own colour."""
    shape = MARKS[style % len(MARKS)]
    css = f"mark {colour(style)}"
    if shape == "circle":
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{size:.1f}" class="{css}"/>'
    corners = CORNERS[shape]
    points = " ".join(f"{x + a * size:.1f},{y + b * size:.1f}" for a, b in corners)
    return f'<polygon points="{points}" class="{css}"/>'


def colour(style: int) -> str:
    """The class that gives series number `style` its colour."""
    return f"s{style % COLOURS}"


def shorten(name: str, characters: int) -> str:
    """`name` on one line, its middle left out when it is longer than `characters`."""
    name = " ".join(name.split())
    if len(name) <= characters:
        return name
    head = (characters - 1) * 2 // 3
    return f"{name[:head]}…{name[len(name) - (characters - 1 - head) :]}"


def ticks(lower: float, upper: float, parts: int = 5) -> list[float]:
    """Round numbers in [lower, upper], about `parts` steps."""
    rough = (upper - lower) / parts
    power = 10.0 ** floor(log10(rough))
    step = next(power * m for m in (1, 2, 2.5, 5, 10) if power * m >= rough * 0.999)
    first = -floor(-lower / step + 1e-9)
    found = []
    while first * step <= upper + step * 1e-9:
        found.append(round(first * step, 10))
        first += 1
    return found
