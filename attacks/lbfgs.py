"""Box-constrained L-BFGS, Szegedy et al. (2014), https://arxiv.org/abs/1312.6199."""

from math import inf, sqrt
from typing import Annotated

import numpy as np
import torch
from pydantic import Field
from scipy.optimize import fmin_l_bfgs_b
from torch import Tensor
from torch.nn import functional as F

from attacks.closest import Closest
from attacks.gradient import differentiate
from attacks.jacobian import gaps
from attacks.losses import rivals
from attacks.parameters import Count
from hardening.attack import Found, describes
from hardening.threat import Model, ThreatModel

Vector = np.ndarray[tuple[int], np.dtype[np.float64]]


@describes("gradients", norms=("l2",), minimal=True)
def lbfgs(
    model: Model,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    rng: torch.Generator,
    /,
    *,
    steps: Count = 30,
    searches: Count = 10,
    classes: Count = 10,
    first_weight: Annotated[float, Field(gt=0)] = 0.01,
) -> Found:
    """L-BFGS-B on |delta|^2 + c * cross entropy to a target class, c by line search.

    The first attack ever published, for comparison: one image at a time, so it is slow. The target
    is the class with the smallest |gap| / |gradient|_2 at the image (the paper leaves it open). The
    weight c goes up tenfold until a point fools, then to the geometric mean of the largest that did
    not and the smallest that did. Costs about `searches` times `steps` forward and backward passes,
    two forward passes and min(classes, K - 1) backward passes.

    Args:
        steps: Evaluations per weight; the solver may finish a line search beyond.
        searches: Weights tried.
        classes: Classes that may be the target, highest clean logit first.
        first_weight: Weight tried first.

    Raises:
        ModelError: The model has no gradients or does not return logits (B, K).
        NumericsError: A logit or a gradient is not finite.
    """
    book = Closest(model, x, y, threat, rng)
    if len(book.x) == 0:
        return book.found
    targets = _nearest(model, book, classes)
    for place in torch.arange(len(book.x), device=x.device).split(1):
        lower, upper, weight = 0.0, inf, first_weight
        for _ in range(searches):
            if _minimise(model, book, place, targets[place], weight, steps):
                upper = min(upper, weight)
            else:
                lower = max(lower, weight)
            low = lower or upper / 100
            weight = sqrt(low * min(upper, low * 100))
    return book.found


def _nearest(model: Model, book: Closest, classes: int) -> Tensor:
    """The class whose border is nearest by the linear approximation at each image, (b,)."""
    others = rivals(book.clean, book.y)[:, :classes]
    _, values, gradients = gaps(model, book.x, book.y, others)
    sizes = torch.linalg.vector_norm(gradients.flatten(2), dim=2)
    distances = values.abs() / sizes.clamp(min=torch.finfo(sizes.dtype).tiny)
    return others.gather(1, distances.argmin(1, keepdim=True))[:, 0]


def _loss(logits: Tensor, y: Tensor, target: Tensor) -> Tensor:
    """Cross entropy of the target class against the label, the other classes left out, (b,)."""
    return F.softplus(logits.gather(1, y[:, None]) - logits.gather(1, target[:, None]))[:, 0]


def _minimise(
    model: Model, book: Closest, place: Tensor, target: Tensor, weight: float, steps: int
) -> bool:
    """Whether the lowest point for this weight fools; the way there starts at the image."""
    origin = book.x[place]
    start = _vector(origin)
    lowest, fooled = inf, False

    def objective(flat: Vector) -> tuple[float, Vector]:
        nonlocal lowest, fooled
        point = torch.from_numpy(flat).to(origin).view_as(origin).clamp(0, 1)
        logits, losses, gradient = differentiate(model, point, _loss, book.y[place], target)
        fools = bool(book.offer(point, logits, place))
        delta = flat - start
        value = float(delta @ delta) + weight * float(losses)
        if value < lowest:
            lowest, fooled = value, fools
        return value, 2 * delta + weight * _vector(gradient)

    fmin_l_bfgs_b(objective, start, bounds=[(0, 1)] * len(start), maxfun=steps, maxiter=steps)
    return fooled


def _vector(image: Tensor) -> Vector:
    """The numbers of one image (1, ...) as the solver wants them."""
    return np.asarray(image.double().cpu()).reshape(image.numel())
