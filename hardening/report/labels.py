"""Places labels beside points so that none covers another, a point, or the edge."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

GAP = 9.0
"""Distance of a label from its point, user units."""

STEP = 24.0
"""Distance of the places tried in a row, user units."""

COVERING, FAR = 1000.0, 1.5
"""Prices of a covered unit of area and of a unit of distance; a crossed line's area costs 1."""


class Box(NamedTuple):
    """A rectangle: left, top, right, bottom."""

    left: float
    top: float
    right: float
    bottom: float

    def overlap(self, other: "Box") -> float:
        """Area that both cover."""
        width = min(self.right, other.right) - max(self.left, other.left)
        height = min(self.bottom, other.bottom) - max(self.top, other.top)
        return max(0.0, width) * max(0.0, height)

    def inside(self, other: "Box") -> bool:
        """Whether it lies in `other` completely."""
        return (
            self.left >= other.left
            and self.top >= other.top
            and self.right <= other.right
            and self.bottom <= other.bottom
        )


class Anchor(NamedTuple):
    """A point and the size of the label that belongs to it."""

    x: float
    y: float
    width: float
    height: float


def place(anchors: Sequence[Anchor], lines: Sequence[Box], area: Box) -> list[Box]:
    """One box for each anchor: it covers no label and no point where that can be.

    Among such places it prefers one that is near and crosses few of the `lines`.
    """
    taken = [Box(a.x - 6, a.y - 6, a.x + 6, a.y + 6) for a in anchors]
    placed: list[Box] = []
    for anchor in anchors:
        best, least = None, float("inf")
        for box in _places(anchor, area):
            covered = sum(box.overlap(other) for other in (*taken, *placed))
            crossed = sum(box.overlap(other) for other in lines)
            cost = COVERING * covered + crossed + FAR * _distance(anchor, box)
            if cost < least:
                best, least = box, cost
        placed.append(best or Box(anchor.x, anchor.y, anchor.x, anchor.y))
    return placed


def _places(anchor: Anchor, area: Box) -> Iterator[Box]:
    """The eight places around the point, then a grid over the whole area."""
    x, y, width, height = anchor
    middle, over, under = y - height / 2, y - GAP - height, y + GAP
    starts = [(x + GAP, middle), (x - GAP - width, middle)]
    starts += [(x - width / 2, over), (x - width / 2, under)]
    starts += [(left, top) for left in (x + GAP, x - GAP - width) for top in (over, under)]
    rows = range(int((area.bottom - area.top) // height))
    columns = range(int((area.right - area.left - width) // STEP) + 1)
    starts += [(area.left + STEP * c, area.top + height * r) for r in rows for c in columns]
    for left, top in starts:
        box = Box(left, top, left + width, top + height)
        if box.inside(area):
            yield box


def _distance(anchor: Anchor, box: Box) -> float:
    across = max(box.left - anchor.x, anchor.x - box.right, 0.0)
    down = max(box.top - anchor.y, anchor.y - box.bottom, 0.0)
    return across + down
