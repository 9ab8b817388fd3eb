"""The smallest move within [0, 1] onto a hyperplane, exact, one solver per norm.

Shapes: b points of d numbers each, (b, d); the hyperplane of a row is given by its normal (b, d)
and by how much `normal . point` has to change, (b,).
"""

from collections.abc import Callable

import torch
from torch import Tensor

from hardening.balls import Norm


def onto(points: Tensor, normal: Tensor, change: Tensor, norm: Norm) -> Tensor:
    """The move m, (b, d), smallest in `norm`, with normal . m = change and points + m in [0, 1].

    Where the hyperplane misses the box: as far towards it as the box lets. A normal of zero gives
    no move.
    """
    heading = normal.sign() * change.sign()[:, None]
    room = torch.where(heading > 0, 1 - points, points)
    # Relative to its largest number, or the squares of a tiny normal would underflow.
    peak = normal.abs().amax(1, keepdim=True).clamp(min=torch.finfo(normal.dtype).tiny)
    needed = change.abs()[:, None] / peak
    return heading * SOLVERS[norm](normal.abs() / peak, room, needed)


def _linf(slope: Tensor, room: Tensor, needed: Tensor) -> Tensor:
    """All numbers move by as much, or to the end of their room."""
    return _rise(slope, torch.ones_like(slope), room, needed)


def _l2(slope: Tensor, room: Tensor, needed: Tensor) -> Tensor:
    """Numbers move in proportion to their slope, or to the end of their room."""
    return _rise(slope, slope, room, needed)


def _l1(slope: Tensor, room: Tensor, needed: Tensor) -> Tensor:
    """The steepest numbers move to the end of their room, the last one only as far as needed."""
    slopes, order = slope.sort(dim=1, descending=True, stable=True)
    rooms = room.gather(1, order)
    gains = (slopes * rooms).double()
    left = needed - (gains.cumsum(1) - gains)
    share = (left / gains.clamp(min=torch.finfo(slope.dtype).tiny)).clamp(0, 1)
    return torch.zeros_like(room).scatter(1, order, share.to(room.dtype) * rooms)


SOLVERS: dict[Norm, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "linf": _linf,
    "l2": _l2,
    "l1": _l1,
}


def _rise(slope: Tensor, speed: Tensor, room: Tensor, needed: Tensor) -> Tensor:
    """Moves min(level * speed, room) with the one level at which slope . move is what is needed.

    That sum is concave in the level, so Newton's steps from zero never go too far: each fills the
    room of more numbers, and the first one that fills none is exact. A handful of rounds, where
    sorting by the levels at which rooms are full costs several times as much.
    """
    full = room <= 0
    level = torch.zeros_like(needed)
    while True:
        missing = needed - (slope * room * full).sum(1, keepdim=True)
        rate = (slope * speed * ~full).sum(1, keepdim=True)
        level = torch.where(rate > 0, torch.maximum(level, missing / rate), level)
        filled = full | (level * speed >= room)
        if torch.equal(filled, full):
            return torch.where(full, room, level * speed)
        full = filled
