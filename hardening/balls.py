"""The geometry of each norm around images in [0, 1]: one row of `BALLS` per norm.

Shapes: B images (B, ...) of d numbers each; x is the centre, a radius is in pixel units (for L0 it
counts the numbers that may change).
"""

from collections.abc import Callable
from functools import partial
from typing import Literal, NamedTuple

import torch
from torch import Tensor

Norm = Literal["linf", "l2", "l1", "l0"]

SLACK = 1e-6
"""Relative excess over the radius that float32 rounding may leave in any norm but Linf."""

SPREAD = 0.05
"""Share of the numbers that an L1 step moves, where nobody says otherwise."""

INSIDE = 1 - 1e-12
"""Aimed at instead of the radius, so that a float64 sum in another order is not beyond it."""


class Ball(NamedTuple):
    """What one norm does with `x` and a radius; points are (B, ...), sizes (B,)."""

    size: Callable[[Tensor], Tensor]
    contains: Callable[[Tensor, Tensor, float], Tensor]
    project: Callable[[Tensor, Tensor, float], Tensor]
    ascend: Callable[[Tensor], Tensor]
    summit: Callable[[Tensor, Tensor, float], Tensor]
    sample: Callable[[Tensor, float, torch.Generator], Tensor]


def per_image(values: Tensor, like: Tensor) -> Tensor:
    """Reshape (B,) to (B, 1, ..., 1) so that it broadcasts over `like`."""
    return values.view(-1, *[1] * (like.ndim - 1))


def uniform(shape: tuple[int, ...], rng: torch.Generator, like: Tensor) -> Tensor:
    """Uniform numbers in [0, 1) drawn on the generator's device, placed where `like` is."""
    return torch.rand(shape, generator=rng, device=rng.device).to(like)


def inward(x: Tensor, gradient: Tensor) -> Tensor:
    """`gradient` without what would lead out of the range: a sparse step is not lost on it."""
    stuck = ((x <= 0) & (gradient < 0)) | ((x >= 1) & (gradient > 0))
    return gradient.masked_fill(stuck, 0)


def spread(gradient: Tensor, share: Tensor) -> Tensor:
    """The `share` (B,) of the gradient's numbers that are steepest, scaled to an L1 length of one.

    The sparse step of https://arxiv.org/abs/1904.13000, but for its weights: by their signs alone,
    the steepest number would never get more than the next. Zero where `gradient` is.
    """
    gradient = _scaled_by_peak(gradient)
    heights = gradient.flatten(1).abs()
    d = heights.shape[1]
    count = (share * d).ceil().long().clamp(1, d)
    lowest = heights.sort(descending=True).values.gather(1, count[:, None] - 1)
    steep = gradient * (gradient.abs() >= per_image(lowest[:, 0], gradient))
    return steep / per_image(_l1(steep).clamp(min=1e-12), gradient)


def _scaled_by_peak(gradient: Tensor) -> Tensor:
    """Its largest number is one, so that no sum over a tiny or huge one leaves the numbers."""
    tiny = torch.finfo(gradient.dtype).tiny
    return gradient / per_image(_linf(gradient).clamp(min=tiny), gradient)


# Linf


def _linf(delta: Tensor) -> Tensor:
    return delta.flatten(1).abs().amax(1)


def _box(x: Tensor, radius: float) -> tuple[Tensor, Tensor]:
    return (x - radius).clamp(0, 1), (x + radius).clamp(0, 1)


def _contains_linf(x: Tensor, x_adv: Tensor, radius: float) -> Tensor:
    lower, upper = _box(x, radius)
    return ((x_adv >= lower) & (x_adv <= upper)).flatten(1).all(1)


def _project_linf(x: Tensor, x_adv: Tensor, radius: float) -> Tensor:
    lower, upper = _box(x, radius)
    return torch.minimum(torch.maximum(x_adv, lower), upper)


def _sample_linf(x: Tensor, radius: float, rng: torch.Generator) -> Tensor:
    return x + radius * (2 * uniform(x.shape, rng, x) - 1)


# L2


def _l2(delta: Tensor) -> Tensor:
    size: Tensor = torch.linalg.vector_norm(delta.flatten(1), dim=1)
    return size


def _project_l2(x: Tensor, x_adv: Tensor, radius: float) -> Tensor:
    x_adv = x_adv.clamp(0, 1)
    delta = x_adv - x
    size = torch.linalg.vector_norm(delta.flatten(1), dim=1, dtype=torch.float64)
    # Rounding may lengthen delta: by a few parts in 2^24, and by 2^-25 a pixel in x + delta.
    slack = radius * 2**-22 + 2**-25 * x.shape[1:].numel() ** 0.5
    factor = (max(radius - slack, 0.0) / size.clamp(min=1e-12)).to(x.dtype)
    shrunk = (x + delta * per_image(factor, x)).clamp(0, 1)
    return torch.where(per_image(size > radius, x), shrunk, x_adv)


def _ascend_l2(gradient: Tensor) -> Tensor:
    gradient = _scaled_by_peak(gradient)
    return gradient / per_image(_l2(gradient).clamp(min=1e-12), gradient)


def _sample_l2(x: Tensor, radius: float, rng: torch.Generator) -> Tensor:
    direction = torch.randn(x.shape, generator=rng, device=rng.device).to(x)
    length = uniform((len(x),), rng, x) ** (1 / x.shape[1:].numel())
    return x + radius * (direction * per_image(length / _l2(direction).clamp(min=1e-12), x))


# L1


def _l1(delta: Tensor) -> Tensor:
    return delta.flatten(1).abs().sum(1, dtype=torch.float64).to(delta.dtype)


def _project_l1(x: Tensor, x_adv: Tensor, radius: float) -> Tensor:
    """Nearest point (in L2) of the ball cut by the range, https://arxiv.org/abs/2103.01208.

    It moves by min(max(|x_adv - x| - threshold, 0), room to the end of the range), with the one
    threshold that spends the radius: found among the sorted places where that sum bends.
    """
    delta = x_adv.double() - x.double()
    asked, room = _asked_and_room(x, delta)
    size = torch.minimum(asked, room).sum(1)
    bends, order = torch.cat([(asked - room).clamp(min=0), asked], 1).sort(1)
    slope = torch.where(order < asked.shape[1], -1, 1).cumsum(1)
    fall = (slope[:, :-1] * bends.diff(dim=1)).cumsum(1)
    left = size[:, None] + torch.cat([torch.zeros_like(fall[:, :1]), fall], 1)
    aim = radius * INSIDE
    last = ((left > aim).sum(1, keepdim=True) - 1).clamp(min=0)
    over, steep = left.gather(1, last) - aim, -slope.gather(1, last)
    threshold = bends.gather(1, last) + over / steep.clamp(min=1)
    shrunk = _moved(x, delta, torch.minimum((asked - threshold).clamp(min=0), room))
    return torch.where(per_image(size > radius, x), shrunk, x_adv.clamp(0, 1))


def _ascend_l1(gradient: Tensor) -> Tensor:
    return spread(gradient, gradient.new_full((len(gradient),), SPREAD))


def _summit_l1(x: Tensor, gradient: Tensor, radius: float) -> Tensor:
    """Steepest first, each number goes as far as range and radius allow."""
    steepness, room = _asked_and_room(x, gradient)
    order = steepness.argsort(dim=1, descending=True, stable=True)
    room = room.gather(1, order)
    spent = room.cumsum(1) - room
    moved = torch.minimum((radius * INSIDE - spent).clamp(min=0), room)
    return _moved(x, gradient, torch.zeros_like(moved).scatter(1, order, moved))


def _sample_l1(x: Tensor, radius: float, rng: torch.Generator) -> Tensor:
    # Gaps between sorted uniform numbers are uniform on the simplex, and so are these.
    d = x.shape[1:].numel()
    sizes = -torch.log1p(-uniform((len(x), d + 1), rng, x).double())
    sizes = (sizes / sizes.sum(1, keepdim=True))[:, :d].view(x.shape)
    signs = torch.where(uniform(x.shape, rng, x) < 0.5, -1, 1)
    return x + (radius * signs * sizes).to(x.dtype)


def _asked_and_room(x: Tensor, direction: Tensor) -> tuple[Tensor, Tensor]:
    """Length of each number's `direction`, and how far it may go before the range ends, (B, d)."""
    ways, start = direction.flatten(1).double(), x.flatten(1).double()
    room = torch.where(ways > 0, 1 - start, torch.where(ways < 0, start, 0.0))
    return ways.abs(), room


def _moved(x: Tensor, direction: Tensor, sizes: Tensor) -> Tensor:
    """`x` moved by `sizes` (B, d) along the signs of `direction`, rounded to be no longer."""
    sizes = sizes.view(x.shape)
    exact = x.double() + direction.sign() * sizes
    rounded = exact.to(x.dtype)
    longer = (rounded.double() - x.double()).abs() > sizes
    return torch.where(longer, torch.nextafter(rounded, x), rounded)


# L0


def _l0(delta: Tensor) -> Tensor:
    return (delta != 0).flatten(1).sum(1).to(delta.dtype)


def _largest(values: Tensor, radius: float) -> Tensor:
    """Which `radius` numbers of each row (B, ...) are largest, bool; ties go to the first."""
    order = values.flatten(1).argsort(dim=1, descending=True, stable=True)[:, : int(radius)]
    chosen = torch.zeros_like(values.flatten(1), dtype=torch.bool)
    return chosen.scatter(1, order, value=True).view(values.shape)


def _project_l0(x: Tensor, x_adv: Tensor, radius: float) -> Tensor:
    x_adv = x_adv.clamp(0, 1)
    return torch.where(_largest((x_adv - x).abs(), radius), x_adv, x)


def _summit_l0(x: Tensor, gradient: Tensor, radius: float) -> Tensor:
    steepness, room = _asked_and_room(x, gradient)
    chosen = _largest((steepness * room).view(x.shape), radius) & (gradient != 0)
    return torch.where(chosen, (gradient > 0).to(x.dtype), x)


def _sample_l0(x: Tensor, radius: float, rng: torch.Generator) -> Tensor:
    chosen = _largest(uniform(x.shape, rng, x), radius)
    return torch.where(chosen, uniform(x.shape, rng, x), x)


# All


def _within(size: Callable[[Tensor], Tensor], x: Tensor, x_adv: Tensor, radius: float) -> Tensor:
    in_range = ((x_adv >= 0) & (x_adv <= 1)).flatten(1).all(1)
    return in_range & (size(x_adv.double() - x.double()) <= radius * (1 + SLACK))


def _straight(
    project: Callable[[Tensor, Tensor, float], Tensor],
    ascend: Callable[[Tensor], Tensor],
    x: Tensor,
    gradient: Tensor,
    radius: float,
) -> Tensor:
    return project(x, x + radius * ascend(gradient), radius)


BALLS: dict[Norm, Ball] = {
    "linf": Ball(
        size=_linf,
        contains=_contains_linf,
        project=_project_linf,
        ascend=torch.sign,
        summit=partial(_straight, _project_linf, torch.sign),
        sample=_sample_linf,
    ),
    "l2": Ball(
        size=_l2,
        contains=partial(_within, _l2),
        project=_project_l2,
        ascend=_ascend_l2,
        summit=partial(_straight, _project_l2, _ascend_l2),
        sample=_sample_l2,
    ),
    "l1": Ball(
        size=_l1,
        contains=partial(_within, _l1),
        project=_project_l1,
        ascend=_ascend_l1,
        summit=_summit_l1,
        sample=_sample_l1,
    ),
    "l0": Ball(
        size=_l0,
        contains=partial(_within, _l0),
        project=_project_l0,
        ascend=_ascend_l2,  # which numbers change is left to `project`
        summit=_summit_l0,
        sample=_sample_l0,
    ),
}
