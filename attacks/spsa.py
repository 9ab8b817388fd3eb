"""Simultaneous perturbation stochastic approximation, https://arxiv.org/abs/1802.05666."""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from attacks.gradient import BATCH, look
from attacks.losses import margin
from attacks.parameters import Count, Share
from attacks.search import Search, rows
from hardening.attack import Found, describes
from hardening.threat import Model, ThreatModel, per_image

MOMENTUM = 0.9  # of Adam, which the paper steps with


@describes("scores", norms=("linf", "l2", "l1"))
@torch.no_grad()
def spsa(
    model: Model,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    rng: torch.Generator,
    /,
    *,
    steps: Count = 100,
    samples: Count = 128,
    delta: Annotated[float, Field(ge=1e-4, le=1)] = 0.01,
    relative_step: Share = 0.3,
) -> Found:
    """Ascent along a gradient that is estimated from scores at random pairs of points, (B, ...).

    For random signs s, the mean of (f(x + delta s) - f(x - delta s)) / (2 delta s) estimates the
    gradient of f, the margin loss. Estimates are averaged over steps with a momentum of 0.9, the
    step is the norm's steepest one (the paper's Adam ascends in Linf only) and shrinks linearly to
    nothing. The first point that fools is kept; an image that no point fools gets its point of
    highest loss. Costs `steps` * (2 `samples` + 1) forward passes for the images that still stand.

    Args:
        steps: Gradient estimates.
        samples: Pairs of points per estimate; the paper takes up to thousands.
        delta: How far the points of a pair are from the middle, in every number; pixel units.
        relative_step: First step as a fraction of eps; 0.3 is the paper's 0.01 at eps 8/255.

    Raises:
        ModelError: The model does not return logits (B, K).
        NumericsError: A logit is not finite.
    """
    search = Search(model, x, y, margin, rng)
    points, momentum = search.x, torch.zeros_like(search.x)
    for step in range(steps):
        if search.done:
            break
        momentum = MOMENTUM * momentum + _slope(model, search, points, samples, delta)
        stride = threat.eps * relative_step * (1 - step / steps)
        points = threat.project(search.x, points + stride * threat.ascend(momentum))
        logits, losses = look(model, points, margin, search.y)
        stands = search.settle(points, logits)
        points, momentum, losses = rows(stands, points, momentum, losses)
        search.offer(points, losses)
    return search.found


def _slope(model: Model, search: Search, points: Tensor, samples: int, delta: float) -> Tensor:
    """An estimate of the margin's gradient at `points` times `samples`, (b, ...)."""
    slope = torch.zeros_like(points)
    at_once = max(4 * BATCH // (2 * len(points)), 1)  # no batch of the model's half empty
    for start in range(0, samples, at_once):
        count = min(at_once, samples - start)
        steps = [_signs(search) * delta for _ in range(count)]
        pairs = [((points + step).clamp(0, 1), (points - step).clamp(0, 1)) for step in steps]
        flat = torch.cat([point for pair in pairs for point in pair])
        _, losses = look(model, flat, margin, search.y.repeat(2 * count))
        # One by one: the order of a sum must not depend on how many images there are.
        for (up, down), (high, low) in zip(pairs, losses.view(count, 2, -1), strict=True):
            # What the pixel range leaves of the pair counts, not what was asked for.
            slope += per_image(high - low, up) / (up - down)
    return slope


def _signs(search: Search) -> Tensor:
    """A random + 1 or - 1 for every number of the standing images, (b, ...)."""
    numbers = search.uniform(search.x.shape[1:].numel()).view(search.x.shape)
    return torch.where(numbers < 0.5, -1.0, 1.0)
