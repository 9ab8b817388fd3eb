"""How the square attack starts and what it tries next, one scheme per norm.

The paper (https://arxiv.org/abs/1912.00049) gives two algorithms, not one with a norm in it: in
Linf every pixel can be at the border, in L2 a window must take its budget from another. L1 does as
L2 with steeper bumps (https://arxiv.org/abs/2103.01208). So there are two pairs of functions in a
table keyed by the norm.

Shapes: b images, C channels, H x W pixels, squares of s x s; numbers are uniform in [0, 1).
"""

from collections.abc import Callable
from functools import cache, partial
from math import sqrt
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from hardening.threat import Norm, ThreatModel, per_image

Window = tuple[Tensor, Tensor, Tensor, Tensor]


class Scheme(NamedTuple):
    """`start(threat, x, uniform)` and `change(threat, x, x_adv, area, numbers)`, both (b, C, H, W).

    `uniform(n)` draws (b, n) numbers; `change` takes (b, places + C) of them; `area` is the share
    of the image that a square covers.
    """

    start: Callable[[ThreatModel, Tensor, Callable[[int], Tensor]], Tensor]
    change: Callable[[ThreatModel, Tensor, Tensor, float, Tensor], Tensor]
    places: int


def _start_linf(threat: ThreatModel, x: Tensor, uniform: Callable[[int], Tensor]) -> Tensor:
    """Vertical stripes of + eps and - eps, drawn per channel."""
    _, channels, _, width = x.shape
    stripes = _signs(uniform(channels * width)).view(-1, channels, 1, width)
    return threat.project(x, x + threat.eps * stripes)


def _change_linf(
    threat: ThreatModel, x: Tensor, x_adv: Tensor, area: float, numbers: Tensor
) -> Tensor:
    """Set one square to + eps or - eps, drawn per channel."""
    height, width = x.shape[2:]
    side = min(max(round(sqrt(area * height * width)), 1), height, width)
    window = _window(numbers[:, :2], side, x)
    clean, now = x[window], x_adv[window]
    push = threat.eps * _signs(numbers[:, 2:])[:, :, None, None]
    new = threat.project(clean, clean + push)
    # A query for what is there already would be lost: try the opposite.
    same = per_image((new == now).flatten(1).all(1), new)
    proposal = x_adv.clone()
    proposal[window] = torch.where(same, threat.project(clean, clean - push), new)
    return proposal


def _start_bumps(
    power: int, threat: ThreatModel, x: Tensor, uniform: Callable[[int], Tensor]
) -> Tensor:
    """About five by five bumps of random sign and direction, scaled to eps."""
    _, channels, height, width = x.shape
    side = max(min(height, width) // 5, 1)
    down, across = height // side, width // side
    numbers = uniform((channels + 1) * down * across).view(-1, channels + 1, down, across)
    bump = _bump(side, power).to(x)
    turned = (numbers[:, :1, :, :, None, None] < 0.5).to(x)
    bumps = turned * bump.T + (1 - turned) * bump
    tiles = _signs(numbers[:, 1:])[..., None, None] * bumps
    delta = tiles.transpose(3, 4).reshape(-1, channels, down * side, across * side)
    top, left = (height - down * side) // 2, (width - across * side) // 2
    bottom, right = height - down * side - top, width - across * side - left
    return _scaled(threat, x, F.pad(delta, (left, right, top, bottom)))


def _change_bumps(
    power: int, threat: ThreatModel, x: Tensor, x_adv: Tensor, area: float, numbers: Tensor
) -> Tensor:
    """Move the budget of one window, and what is unused, to a bump in another."""
    channels, height, width = x.shape[1:]
    side = max(round(sqrt(area * height * width)), 3)
    side = min(side + (side + 1) % 2, height, width)
    target, source = _window(numbers[:, :2], side, x), _window(numbers[:, 2:4], side, x)
    delta = x_adv - x
    old = delta[target]
    cleared = delta.clone()
    cleared[target] = 0
    cleared[source] = 0
    unused = (threat.eps**power - _powers(delta, power).sum(1, keepdim=True)).clamp(min=0)
    budget = (unused / channels + _powers(delta - cleared, power)) ** (1 / power)
    bump, turned = _bump(side, power).to(x), per_image(numbers[:, 4] < 0.5, x)
    bump = _signs(numbers[:, 5:])[:, :, None, None] * torch.where(turned, bump.T, bump)
    new = bump + old / _length(old, power)
    cleared[target] = new / _length(new, power) * budget
    return _scaled(threat, x, cleared)


PROPOSALS: dict[Norm, Scheme] = {
    "linf": Scheme(_start_linf, _change_linf, places=2),
    "l2": Scheme(partial(_start_bumps, 2), partial(_change_bumps, 2), places=5),
    "l1": Scheme(partial(_start_bumps, 1), partial(_change_bumps, 1), places=5),
}


def _window(place: Tensor, side: int, x: Tensor) -> Window:
    """Index of one square of each image; `place` (b, 2) is where in the range it can move in."""
    images, channels, height, width = x.shape
    free = torch.tensor([height - side + 1, width - side + 1], device=x.device)
    top, left = (place * free).long().unbind(1)
    offsets = torch.arange(side, device=x.device)
    return (
        torch.arange(images, device=x.device)[:, None, None, None],
        torch.arange(channels, device=x.device)[None, :, None, None],
        (top[:, None] + offsets)[:, None, :, None],
        (left[:, None] + offsets)[:, None, None, :],
    )


@cache
def _bump(side: int, power: int) -> Tensor:
    """A positive hill above a negative one, (s, s), of unit norm (the paper's eta)."""
    upper, lower = _hill(side // 2, side, power), _hill(side - side // 2, side, power)
    bump = torch.cat([upper, -lower])[None, None]
    return (bump / _length(bump, power))[0, 0]


def _hill(height: int, width: int, power: int) -> Tensor:
    """Heights of unit norm that fall with the distance to the centre.

    They are in proportion to the sum over k > distance of 1/k^2 in L2, of 1/k^4 in L1.
    """
    down = (torch.arange(height) - height // 2).abs()
    across = (torch.arange(width) - width // 2).abs()
    terms = 1 / torch.arange(1, max(height, width) // 2 + 2) ** (4 / power)
    heights = terms.flip(0).cumsum(0).flip(0)[torch.maximum(down[:, None], across)][None, None]
    return (heights / _length(heights, power))[0, 0]


def _scaled(threat: ThreatModel, x: Tensor, delta: Tensor) -> Tensor:
    """The point in direction `delta` at the border of the ball, cut by the pixel range."""
    size = threat.distance(torch.zeros_like(delta), delta).clamp(min=1e-12)
    return threat.project(x, x + delta * per_image(threat.eps / size, x))


def _powers(delta: Tensor, power: int) -> Tensor:
    """Sum of the powers of each image and channel, (b, C, 1, 1)."""
    # Contiguous, so that the order of the sum does not depend on the memory format.
    return (delta.flatten(2).contiguous().abs() ** power).sum(2)[:, :, None, None]


def _length(delta: Tensor, power: int) -> Tensor:
    """Norm of each image and channel, (b, C, 1, 1), and never zero."""
    return (_powers(delta, power) ** (1 / power)).clamp(min=1e-12)


def _signs(numbers: Tensor) -> Tensor:
    return torch.where(numbers < 0.5, -1.0, 1.0)
