"""HopSkipJump: along the border towards the image by labels alone.

https://arxiv.org/abs/1904.02144. Shapes: b images that were right, p of them taking part in a step,
r points each.
"""

from collections.abc import Callable
from math import ceil, log2
from typing import NamedTuple

import torch
from torch import Tensor

from attacks.closest import Closest
from attacks.gradient import BATCH, look
from attacks.noise import mistaken
from attacks.parameters import Count
from hardening.attack import Found, describes
from hardening.threat import Model, Norm, ThreatModel, per_image

FIRST_PROBE = 0.1  # how far the first probes go, pixel units
HALVINGS = 12  # of a step that does not fool, before the round is given up
FINEST = 20  # bisections after which float32 knows no point in between


class Geometry(NamedTuple):
    """What the paper does differently in each norm.

    `shrink(x, points, share)` moves points towards `x` until `share` (p,) of their distance is
    left; `probe(shape, stream)` draws a direction; the border is found to d ** -`precision`.
    """

    shrink: Callable[[Tensor, Tensor, Tensor], Tensor]
    probe: Callable[[torch.Size, torch.Generator], Tensor]
    precision: float


def _clip(x: Tensor, points: Tensor, share: Tensor) -> Tensor:
    delta = points - x
    radius = per_image(share * delta.flatten(1).abs().amax(1), x)
    return (x + torch.minimum(torch.maximum(delta, -radius), radius)).clamp(0, 1)


def _blend(x: Tensor, points: Tensor, share: Tensor) -> Tensor:
    return torch.lerp(x, points, per_image(share, x)).clamp(0, 1)


def _cube(shape: torch.Size, stream: torch.Generator) -> Tensor:
    return 2 * torch.rand(shape, generator=stream) - 1


def _normal(shape: torch.Size, stream: torch.Generator) -> Tensor:
    return torch.randn(shape, generator=stream)


GEOMETRY: dict[Norm, Geometry] = {
    "linf": Geometry(_clip, _cube, 2.0),
    "l2": Geometry(_blend, _normal, 1.5),
}


@describes("labels", norms=("linf", "l2"), minimal=True)
@torch.no_grad()
def hopskipjump(
    model: Model,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    rng: torch.Generator,
    /,
    *,
    queries: Count = 5000,
    probes: Count = 100,
) -> Found:
    """Bisect to the border, estimate its normal there from labels, step along it, repeat, (B, ...).

    Round t draws `probes` * sqrt(t) directions u around the border point and takes the mean of
    (s - mean s) u, s being +1 where a probe fools and -1 where not, for the border's normal. A step
    of distance / sqrt(t) in its steepest direction is halved until it fools, and its end is drawn
    towards the image by bisection. Starts are random images of random brightness (the paper's are
    uniform noise), drawn until one fools. Costs up to `queries` forward passes, and one for the
    image as it came and one where the nearest point has to be projected.

    Args:
        queries: Labels an image may cost.
        probes: Directions in the first round.

    Raises:
        ModelError: The model does not return logits (B, K).
        NumericsError: A logit is not finite.
    """
    walk = _Walk(model, Closest(model, x, y, threat, rng), GEOMETRY[threat.norm], queries)
    if len(walk.book.x) == 0:
        return walk.book.found
    places = _start(walk)
    _bisect(walk, places, walk.book.best[places])
    turn = 0
    while len(places := walk.able(places)):
        turn += 1
        x, points = walk.book.x[places], walk.points[places]
        distance = threat.distance(x, points)
        normal = _normals(walk, places, ceil(probes * turn**0.5), distance, first=turn == 1)
        ahead, fooled = _step(walk, places, threat.ascend(normal), distance / turn**0.5)
        _bisect(walk, places[fooled], ahead[fooled])
    return walk.book.found


class _Walk:
    """Where the walk is, and what it may still ask.

    Attributes:
        points: (b, ...) points at the border that fool.
        left: (b,) labels that each image may still cost.
    """

    def __init__(self, model: Model, book: Closest, geometry: Geometry, queries: int) -> None:
        self.model, self.book, self.geometry = model, book, geometry
        self.points = book.x
        self.left = torch.full_like(book.index, queries)
        size = book.x.shape[1:].numel()
        self.bisections = min(max(ceil(geometry.precision * log2(max(size, 1))), 1), FINEST)

    def able(self, places: Tensor) -> Tensor:
        """Those of `places` that can pay for a probe, a step and a bisection."""
        return places[self.left[places] > self.bisections + 1]

    def ask(self, points: Tensor, places: Tensor, asked: Tensor) -> Tensor:
        """Which of the `asked` (p, r) points (p, r, ...) fool the model; no others are paid for."""
        fooled = torch.zeros_like(asked)
        labels = self.book.y[places][:, None].expand(asked.shape)[asked]
        logits, _ = look(self.model, points[asked], mistaken, labels)
        answers = logits.new_zeros(*asked.shape, logits.shape[1])
        answers[asked] = logits
        for i in range(asked.shape[1]):
            rows = asked[:, i]
            fooled[rows, i] = self.book.offer(points[rows, i], answers[rows, i], places[rows])
        self.left[places] -= asked.sum(1)
        return fooled

    def ask_one(self, points: Tensor, places: Tensor, asked: Tensor) -> Tensor:
        """The same for a point each, (p, ...), as far as there are labels left."""
        asked = asked & (self.left[places] > 0)
        if not asked.any():
            return asked
        return self.ask(points[:, None], places, asked[:, None])[:, 0]

    def draw(self, places: Tensor, draw: Callable[[torch.Generator], Tensor]) -> Tensor:
        """A random tensor from the stream of each image, (p, ...)."""
        drawn = torch.stack([draw(self.book.streams[place]) for place in places.tolist()])
        return drawn.to(self.points)


def _start(walk: _Walk) -> Tensor:
    """Draw random images until one fools; returns the places where one was found."""
    book, shape = walk.book, walk.points.shape[1:]
    while len(places := ((walk.left > 0) & ~book.known).nonzero()[:, 0]):
        points = walk.draw(places, lambda stream: _random_image(shape, stream))
        walk.ask_one(points, places, torch.ones_like(places, dtype=torch.bool))
    return book.known.nonzero()[:, 0]


def _random_image(shape: torch.Size, stream: torch.Generator) -> Tensor:
    """Noise whose brightness is random: a model may call all grey noise by one name."""
    exponent = 2 ** (6 * torch.rand((), generator=stream) - 3)
    return torch.rand(shape, generator=stream) ** exponent


def _bisect(walk: _Walk, places: Tensor, far: Tensor) -> None:
    """Go from `far` (p, ...), which fools, towards the image, to the last point that fools."""
    if len(places) == 0:
        return
    x, shrink = walk.book.x[places], walk.geometry.shrink
    near_share, share = (
        torch.zeros_like(far.flatten(1)[:, 0]),
        torch.ones_like(far.flatten(1)[:, 0]),
    )
    border = far
    for _ in range(walk.bisections):
        middle = (near_share + share) / 2
        points = shrink(x, far, middle)
        asked = walk.left[places] > 0
        fooled = walk.ask_one(points, places, asked)
        border = torch.where(per_image(fooled, x), points, border)
        share = torch.where(fooled, middle, share)
        near_share = torch.where(asked & ~fooled, middle, near_share)
    walk.points = walk.points.index_copy(0, places, border)


def _normals(walk: _Walk, places: Tensor, count: int, distance: Tensor, *, first: bool) -> Tensor:
    """Estimates of the border's normal at the walk's points, towards what fools, (p, ...)."""
    points = walk.points[places]
    size = points.shape[1:].numel()
    # Paper: distance / d; but not so near that float32 rounds the probe away.
    reach = torch.full_like(distance, FIRST_PROBE) if first else distance / size
    reach = per_image(reach.clamp(min=2**-20 * size**0.5), points)
    counts = (walk.left[places] - walk.bisections - 1).clamp(max=count)
    pull, drift, balance = torch.zeros_like(points), torch.zeros_like(points), 0 * distance
    at_once = max(4 * BATCH // len(places), 1)  # no batch of the model's half empty
    for start in range(0, count, at_once):
        turns = torch.arange(start, min(start + at_once, count), device=points.device)
        probes = torch.stack([_probes(walk, places, points, reach) for _ in turns], 1)
        asked = turns < counts[:, None]
        if not asked.any():
            break
        signs = (2 * walk.ask(probes, places, asked) - 1).to(points) * asked
        # One by one: the order of a sum must not depend on how many images there are.
        for i in range(len(turns)):
            way = (probes[:, i] - points) / reach * per_image(asked[:, i], points)
            pull += per_image(signs[:, i], way) * way
            drift += way
            balance += signs[:, i]
    mean = balance / counts
    one_sided = per_image(mean.abs() == 1, points)
    return torch.where(one_sided, pull, pull - per_image(mean, points) * drift)


def _probes(walk: _Walk, places: Tensor, points: Tensor, reach: Tensor) -> Tensor:
    """A point near each of `points`, (p, ...)."""
    shape = points.shape[1:]
    ways = walk.draw(places, lambda stream: walk.geometry.probe(shape, stream))
    length = torch.linalg.vector_norm(ways.flatten(1), dim=1)
    return (points + reach * ways / per_image(length.clamp(min=1e-12), ways)).clamp(0, 1)


def _step(walk: _Walk, places: Tensor, direction: Tensor, length: Tensor) -> tuple[Tensor, Tensor]:
    """Step along `direction` (p, ...), halved until it fools; where it ends and whether it does."""
    points = walk.points[places]
    ahead, fooled = points, torch.zeros_like(places, dtype=torch.bool)
    for _ in range(HALVINGS):
        tried = (points + per_image(length, points) * direction).clamp(0, 1)
        hit = walk.ask_one(tried, places, ~fooled)
        ahead = torch.where(per_image(hit, points), tried, ahead)
        fooled = fooled | hit
        if fooled.all():
            break
        length = length / 2
    return ahead, fooled
