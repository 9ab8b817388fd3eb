"""Signs that a robust accuracy may be wrong, read from what the attacks left behind."""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from hardening.diagnosis.catalogue import alarm, counted
from hardening.diagnosis.limits import Limits
from hardening.evidence import Alarm, AttackRow, Kind, Point

BORROWED: frozenset[Kind] = frozenset({"transfer", "gradient-free"})
"""Kinds that do not follow the model's own gradients; all others are white-box."""


class Rounded(NamedTuple):
    """Adversarial images that were stored with 8 bits a channel, and those that fool no more."""

    successes: int
    lost: int


def alarms(
    rows: Sequence[AttackRow],
    images: int,
    *,
    radii: Sequence[Point] = (),
    rounded: Rounded | None = None,
    limits: Limits,
) -> list[Alarm]:
    """The alarms of one file that its rows and counts can tell, the quiet ones too.

    Args:
        rows: One per attack, in the order they ran, on `images` images.
        images: How many were evaluated.
        radii: Robust accuracy at each radius on its own, before successes are carried upward.
        rounded: What storing the adversarial images with 8 bits did.
        limits: When each fires.
    """
    return [
        _monotone(radii, limits),
        _wins("gradient_free", "gradient-free", rows, images, limits),
        _wins("transfer", "transfer", rows, images, limits),
        _rounding(rounded, limits),
        alarm("violations", 0, images, limits, "every success was checked"),
        _unconfirmed(rows, images, limits),
        alarm("int8", None, 0, limits, "not a quantized file"),
    ]


def _monotone(radii: Sequence[Point], limits: Limits) -> Alarm:
    """G9: the accuracy at a larger radius is not higher; one image is noise."""
    curve = sorted(radii, key=lambda point: point.eps)
    if len(curve) < 2:
        return alarm("monotone", None, 0, limits, "fewer than two radii were attacked")
    rises = {
        f"from eps {low.eps:.3g} to {high.eps:.3g}": high.accuracy.correct - low.accuracy.correct
        for low, high in pairwise(curve)
    }
    where = max(rises, key=lambda step: rises[step])
    found = max(rises[where], 0)
    n = curve[0].accuracy.images
    return counted("monotone", found, n, limits, f"{found} of {n} {where}" if found else "")


def _wins(key: str, kind: Kind, rows: Sequence[AttackRow], images: int, limits: Limits) -> Alarm:
    """G10, G11: what fell to `kind` had withstood every gradient attack."""
    gradient = [row for row in rows if row.kind not in BORROWED]
    others = [row for row in rows if row.kind == kind]
    if not gradient or not others:
        missing = f"no {kind} attack ran" if gradient else "no gradient attack ran"
        return alarm(key, None, 0, limits, missing)
    blind = {image for row in others for image in row.fell}
    found = len(blind.difference(*(row.fell for row in gradient)))
    # A detector met a sample of what stood: its silence is about that sample.
    n = max(row.attacked for row in others) if all(row.sampled for row in others) else images
    by = ", ".join(f"{len(row.fell)} to {row.name}" for row in others if row.fell)
    return counted(key, found, max(n, 1), limits, by)


def _rounding(rounded: Rounded | None, limits: Limits) -> Alarm:
    """G16: reported, never fires."""
    if rounded is None or not rounded.successes:
        return alarm("rounding", None, 0, limits, "no adversarial images were stored")
    lost, n = rounded.lost, rounded.successes
    return alarm("rounding", lost / n, n, limits, f"{lost} of {n}")


def _unconfirmed(rows: Sequence[AttackRow], images: int, limits: Limits) -> Alarm:
    """Another model's successes need no confirmation: not to transfer is no contradiction."""
    own = [row for row in rows if row.source == "file"]
    found = max((row.unconfirmed for row in own), default=0)
    return counted("unconfirmed", found, images, limits)


def above_parent(own: int, parent: int, images: int, how: str, limits: Limits) -> Alarm:
    """Of the same `images`, `own` stand of a quantized file and `parent` of its float parent.

    Args:
        how: How the parent was attacked.
    """
    detail = f"{own} stand, of its float32 parent, {how}, {parent} of {images}"
    return counted("int8", own - parent, images, limits, detail)
