"""Decoupled direction and norm, https://arxiv.org/abs/1811.09600."""

from math import cos, pi

import torch
from torch import Tensor

from attacks.closest import Closest
from attacks.gradient import differentiate, look
from attacks.losses import margin
from attacks.parameters import Count, Share
from hardening.attack import Found, describes
from hardening.threat import Model, ThreatModel, per_image

LAST_CHANGE = 0.001  # relative change of the radius at the end: how finely distances are told


@describes("gradients", norms=("l2",), minimal=True)
def ddn(
    model: Model,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    rng: torch.Generator,
    /,
    *,
    steps: Count = 100,
    radius_change: Share = 0.05,
) -> Found:
    """Unit steps of steepest ascent, each put on a sphere that shrinks after every success.

    delta <- delta + rate * gradient / |gradient|, then delta <- radius * delta / |delta|; the
    radius becomes (1 - change) times itself where the last point fooled, (1 + change) times where
    not; the rate falls from 1 to 0.01 along a cosine. An image without a gradient moves at random.
    Costs `steps` forward and backward passes and two forward passes.

    Nearer than the paper's by four departures: the change falls along the cosine too, the radius
    follows the linear approximation's border until a point fools, the second half ascends the
    margin (cross entropy points at all classes at once), and nothing is rounded to 256 levels.

    Args:
        steps: Gradient evaluations.
        radius_change: Relative change of the radius at the start.

    Raises:
        ModelError: The model has no gradients or does not return logits (B, K).
        NumericsError: A logit or a gradient is not finite.
    """
    book = Closest(model, x, y, threat, rng)
    if len(book.x) == 0:
        return book.found
    points = book.x
    widest = threat.distance(points, (points < 0.5).to(points))
    radius = torch.zeros_like(widest)
    for step in range(steps):
        fall = (1 + cos(pi * step / steps)) / 2
        loss = log_odds if 2 * step < steps else margin
        logits, _, gradient = differentiate(model, points, loss, book.y)
        fooled = book.offer(points, logits)
        delta = points - book.x
        change = LAST_CHANGE + (radius_change - LAST_CHANGE) * fall
        border = _size(delta) + margin(logits, book.y).abs() / _size(gradient)
        radius = torch.where(book.known, radius, border)
        radius = torch.minimum(radius * torch.where(fooled, 1 - change, 1 + change), widest)
        delta = delta + (0.01 + 0.99 * fall) * book.stir(threat.ascend(gradient))
        points = (book.x + per_image(radius, delta) * threat.ascend(delta)).clamp(0, 1)
    logits, _ = look(model, points, margin, book.y)
    book.offer(points, logits)
    return book.found


def log_odds(logits: Tensor, y: Tensor) -> Tensor:
    """Log of the odds against the label, (B,).

    Its gradient points where cross entropy's does and is never lost to rounding: a softmax that
    says 1 for the label has a cross entropy without a gradient.
    """
    others = logits.scatter(1, y[:, None], -float("inf"))
    return others.logsumexp(1) - logits.gather(1, y[:, None])[:, 0]


def _size(delta: Tensor) -> Tensor:
    size: Tensor = torch.linalg.vector_norm(delta.flatten(1), dim=1)
    return size.clamp(min=torch.finfo(size.dtype).tiny)
