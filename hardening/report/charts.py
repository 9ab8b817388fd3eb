"""The charts of a report as SVG markup: bars, lines, a scatter."""

from collections.abc import Sequence
from typing import NamedTuple

from hardening.evidence import Accuracy
from hardening.report import numbers, svg
from hardening.report.labels import Anchor, Box, place
from hardening.report.svg import Scale

BAR_WIDTH, BAR_STEP = 340.0, 46.0
WIDTH, HEIGHT = 460.0, 330.0
PLOT = Box(48, 24, WIDTH - 24, HEIGHT - 46)
LABEL_SIZE = (7.4, 15.0)
"""Width of a character and height of a line in a label, user units, on the large side."""


class Bar(NamedTuple):
    """A model's accuracy, or the words that stand in its place."""

    label: str
    style: int
    accuracy: Accuracy | None
    instead: str = ""


class Series(NamedTuple):
    """A model's line of shares, and the points on it that carry a sign and a 95 % interval."""

    label: str
    style: int
    line: Sequence[tuple[float, float]]
    measured: Sequence[tuple[float, Accuracy]]


class Axes(NamedTuple):
    """What a line chart draws against what, from 0 up to `furthest`."""

    x: str
    y: str
    furthest: float


class Limit(NamedTuple):
    """A vertical line at `at`, and what it says."""

    at: float
    text: str


class Spot(NamedTuple):
    """A model by its clean and its robust accuracy."""

    label: str
    style: int
    clean: Accuracy
    robust: Accuracy


def bars(title: str, entries: Sequence[Bar]) -> str:
    """Horizontal bars from 0 to 100 %, each with its model's name, number and 95 % whisker."""
    parts = []
    for place_, bar in enumerate(entries):
        top = place_ * BAR_STEP
        said = numbers.accuracy(bar.accuracy) if bar.accuracy else bar.instead
        parts += [
            svg.text(0, top + 14, svg.shorten(bar.label, 28), "name"),
            svg.text(BAR_WIDTH, top + 14, said, "value", "end"),
            svg.rectangle(0, top + 20, BAR_WIDTH, 8, "track"),
        ]
        if bar.accuracy:
            length = bar.accuracy.value * BAR_WIDTH
            parts.append(svg.rectangle(0, top + 20, length, 8, f"bar {svg.colour(bar.style)}"))
            ends = (bar.accuracy.lower * BAR_WIDTH, bar.accuracy.upper * BAR_WIDTH)
            parts += _whisker(max(1, ends[0]), min(BAR_WIDTH - 1, ends[1]), top + 33)
    said_all = [
        f"{b.label} {numbers.accuracy(b.accuracy) if b.accuracy else b.instead}" for b in entries
    ]
    label = f"{title}: {'; '.join(said_all)}"
    return svg.figure(BAR_WIDTH, len(entries) * BAR_STEP - 6, label, parts)


def lines(axes: Axes, series: Sequence[Series], limit: Limit | None = None) -> str:
    """Shares between 0 and 100 % against a number; what lies beyond the x axis is cut off."""
    x, y = Scale(0, axes.furthest, PLOT.left, PLOT.right), Scale(0, 1, PLOT.bottom, PLOT.top)
    parts = _axes(
        [(x(t), f"{t:g}") for t in svg.ticks(0, axes.furthest)],
        [(y(t), f"{100 * t:g} %") for t in svg.ticks(0, 1)],
        (axes.x, axes.y),
    )
    if limit is not None:
        side, shift = ("end", -5) if x(limit.at) > (PLOT.left + PLOT.right) / 2 else ("start", 5)
        parts.append(svg.line(x(limit.at), PLOT.top, x(limit.at), PLOT.bottom, "limit"))
        parts.append(svg.text(x(limit.at) + shift, PLOT.top - 10, limit.text, "note", side))
    for one in series:
        css = svg.colour(one.style)
        shown = [(x(at), y(share)) for at, share in _until(one.line, axes.furthest)]
        parts.append(svg.path(shown, f"line {css}", one.style))
        for at, a in one.measured:
            parts.append(svg.line(x(at), y(a.lower), x(at), y(a.upper), f"range {css}"))
            parts.append(svg.mark(x(at), y(a.value), one.style))
    said = [
        f"{one.label}: "
        + ", ".join(f"{numbers.percent(a.value)} at {at:.4g}" for at, a in one.measured)
        for one in series
    ]
    label = f"{axes.y} against {axes.x}. {'; '.join(said)}"
    return svg.figure(WIDTH, HEIGHT, label, parts)


def scatter(spots: Sequence[Spot]) -> str:
    """Clean against robust accuracy, one labelled point a model; upper right is better."""
    x_range, y_range = _span([s.clean for s in spots]), _span([s.robust for s in spots])
    x, y = Scale(*x_range, PLOT.left, PLOT.right), Scale(*y_range, PLOT.bottom, PLOT.top)
    parts = _axes(
        [(x(t), f"{100 * t:g} %") for t in svg.ticks(*x_range)],
        [(y(t), f"{100 * t:g} %") for t in svg.ticks(*y_range)],
        ("clean accuracy", "robust accuracy"),
    )
    names = [svg.shorten(spot.label, 24) for spot in spots]
    width, height = LABEL_SIZE
    anchors = [
        Anchor(x(s.clean.value), y(s.robust.value), len(name) * width + 4, height)
        for s, name in zip(spots, names, strict=True)
    ]
    for s, at in zip(spots, anchors, strict=True):
        css = f"range {svg.colour(s.style)}"
        parts.append(svg.line(x(s.clean.lower), at.y, x(s.clean.upper), at.y, css))
        parts.append(svg.line(at.x, y(s.robust.lower), at.x, y(s.robust.upper), css))
    whiskers = [
        box
        for s, at in zip(spots, anchors, strict=True)
        for box in (
            Box(x(s.clean.lower), at.y - 1, x(s.clean.upper), at.y + 1),
            Box(at.x - 1, y(s.robust.upper), at.x + 1, y(s.robust.lower)),
        )
    ]
    area = Box(PLOT.left + 2, PLOT.top, WIDTH - 2, PLOT.bottom - 2)
    boxes = place(anchors, whiskers, area)
    for at, box in zip(anchors, boxes, strict=True):
        parts += _leader(at, box)
    for s, name, at, box in zip(spots, names, anchors, boxes, strict=True):
        parts.append(svg.mark(at.x, at.y, s.style))
        parts.append(svg.text((box.left + box.right) / 2, box.bottom - 4, name, "label", "middle"))
    said = [
        f"{s.label}: clean {numbers.percent(s.clean.value)}, "
        f"robust {numbers.percent(s.robust.value)}"
        for s in spots
    ]
    return svg.figure(WIDTH, HEIGHT, "Clean against robust accuracy. " + "; ".join(said), parts)


def swatch(style: int) -> str:
    """The line and the sign of a series, for a legend."""
    content = [svg.path([(1, 7), (33, 7)], f"line {svg.colour(style)}", style)]
    content.append(svg.mark(17, 7, style, 4))
    return f'<svg viewBox="0 0 34 14" aria-hidden="true">{"".join(content)}</svg>'


def _span(measured: Sequence[Accuracy]) -> tuple[float, float]:
    """Twentieths around all intervals, at least a fifth of the range wide."""
    lower = int(min(a.lower for a in measured) * 20) / 20
    upper = -int(-max(a.upper for a in measured) * 20 - 0.999) / 20
    lower = max(0.0, min(lower, upper - 0.2))
    return lower, min(1.0, max(upper, lower + 0.2))


def _axes(
    horizontal: list[tuple[float, str]], vertical: list[tuple[float, str]], titles: tuple[str, str]
) -> list[str]:
    parts = []
    for at, said in vertical:
        parts.append(svg.line(PLOT.left, at, PLOT.right, at, "grid"))
        parts.append(svg.text(PLOT.left - 7, at + 4, said, "tick", "end"))
    for at, said in horizontal:
        parts.append(svg.line(at, PLOT.bottom, at, PLOT.bottom + 4, "axis"))
        parts.append(svg.text(at, PLOT.bottom + 17, said, "tick", "middle"))
    parts.append(svg.line(PLOT.left, PLOT.bottom, PLOT.right, PLOT.bottom, "axis"))
    middle = (PLOT.left + PLOT.right) / 2
    parts.append(svg.text(middle, HEIGHT - 8, titles[0], "title", "middle"))
    parts.append(svg.text(2, 12, titles[1], "title"))
    return parts


def _until(line: Sequence[tuple[float, float]], furthest: float) -> list[tuple[float, float]]:
    """The part of a falling line up to `furthest`, drawn on to there when points lie beyond."""
    inside = [point for point in line if point[0] <= furthest]
    if len(inside) == len(line) or not inside:
        return inside
    return [*inside, (furthest, inside[-1][1])]


def _whisker(left: float, right: float, y: float) -> list[str]:
    """An interval below its bar: drawn over it, one would hide the end of the other."""
    strokes = [(left, y, right, y), (left, y - 3, left, y + 3), (right, y - 3, right, y + 3)]
    return [svg.line(*stroke, "whisker") for stroke in strokes]


def _leader(at: Anchor, box: Box) -> list[str]:
    """A thin line from a point to its label, when the label stands away from it."""
    near_x = min(max(at.x, box.left), box.right)
    near_y = min(max(at.y, box.top), box.bottom)
    if abs(near_x - at.x) + abs(near_y - at.y) < 14:
        return []
    return [svg.line(at.x, at.y, near_x, near_y, "leader")]
