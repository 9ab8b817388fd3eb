"""Random noise: corners of the ball and points inside it, drawn blindly.

What falls here and not to an attack by gradients says that the gradients are masked: Carlini et al.
(2019), https://arxiv.org/abs/1902.06705. Shapes: b images still standing, d numbers each.
"""

import torch
from torch import Tensor

from attacks.gradient import BATCH, look
from attacks.parameters import Count
from attacks.search import Search, rows, streams
from hardening.attack import Found, describes
from hardening.threat import Model, ThreatModel

FLOATS = 2**24
"""Numbers that the points of a group of images hold at most, unless an image is larger yet."""


@describes("nothing", norms=("linf", "l2", "l1", "l0"))
@torch.no_grad()
def noise(
    model: Model,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    rng: torch.Generator,
    /,
    *,
    draws: Count = 10_000,
) -> Found:
    """Random points of the threat model, by turns at its border and inside it, (B, ...).

    At the border: where a loss with a random normal gradient would be highest, that is every number
    moved by + eps or - eps (linf), a direction uniform on the sphere (l2), a few numbers moved as
    far as they go (l1, l0). Inside: uniform in the ball before the pixel range cuts it. The first
    point that fools is kept; an image that none fools gets one of them. Costs `draws` forward
    passes for an image that never falls, and for others at most four times those up to the fall.

    Args:
        draws: Points per image, each a forward pass.

    Raises:
        ModelError: The model does not return logits (B, K).
        NumericsError: A logit is not finite.
    """
    groups = [
        _search(model, *group, threat, draws, streams(len(group[0]), rng))
        for group in zip(x.split(BATCH), y.split(BATCH), strict=True)
    ]
    return Found(*(torch.cat(column) for column in zip(*groups, strict=True)))


def mistaken(logits: Tensor, y: Tensor) -> Tensor:
    """One where the model does not say `y`, else zero, (B,): all that a label tells."""
    return (logits.argmax(1) != y).to(logits.dtype)


def _search(
    model: Model,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    draws: int,
    own: list[torch.Generator],
) -> Found:
    search = Search(model, x, y, mistaken, torch.Generator())
    largest = min(max(FLOATS // (BATCH * x.shape[1:].numel()), 2), BATCH)
    drawn, count = 0, 2
    while drawn < draws and not search.done:
        points = _draw(threat, search.x, count, [own[i] for i in search.index.tolist()])
        points = points[:, : draws - drawn]
        labels = search.y.repeat_interleave(points.shape[1])
        logits, _ = look(model, points.flatten(0, 1), mistaken, labels)
        logits = logits.unflatten(0, points.shape[:2])
        drawn += points.shape[1]
        for i in range(points.shape[1]):
            points, logits = rows(search.settle(points[:, i], logits[:, i]), points, logits)
        search.offer(points[:, -1], points.new_ones(len(points)))
        # Few at first: what falls at once has cost little.
        count = min(2 * count, largest // 2 * 2)
    return search.found


def _draw(threat: ThreatModel, x: Tensor, count: int, own: list[torch.Generator]) -> Tensor:
    """`count` points for each image, (b, count, ...): at the border by turns with inside."""
    half, shape = count // 2, x.shape[1:]
    inside = torch.stack(
        [threat.sample(image.expand(half, *shape), rng) for image, rng in zip(x, own, strict=True)]
    )
    ways = torch.stack([torch.randn(half, *shape, generator=rng) for rng in own]).to(x)
    border = threat.summit(x.repeat_interleave(half, 0), ways.flatten(0, 1))
    return torch.stack([border.view_as(inside), inside], 2).flatten(1, 2)
