"""Gates on gradients: there are some, and they are the slopes of what the model computes.

Shapes: n images of the sample, B of them at a time, K classes; gradients are like the images.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from hardening.data import Labelled
from hardening.diagnosis.catalogue import alarm
from hardening.diagnosis.sample import Sample
from hardening.errors import ModelError, NumericsError
from hardening.evaluation import BATCH, all_logits
from hardening.evidence import Alarm
from hardening.threat import Model

STEP = 1e-3  # of finite differences, in pixel units: a quarter of an 8-bit level

Loss = Callable[[Tensor, Tensor], Tensor]


def zero_gradients(sample: Sample) -> Alarm:
    """G5: nowhere is the gradient of either loss exactly zero (Athalye et al. 2018)."""
    x, y = sample.images.floats(), sample.images.labels
    starts = {"the image": x, "a random start": sample.threat.sample(x, sample.rng("G5"))}
    shares = {
        f"{name} at {place}": _share_of_zeros(sample.model, points, y, loss)
        for name, loss in {"cross entropy": _ce, "margin": _margin}.items()
        for place, points in starts.items()
    }
    detail = ", ".join(f"{what}: {share:.3g}" for what, share in shares.items())
    worst = max(shares.values())
    if 0 < worst <= sample.limits.zero_gradients:
        detail = f"warning, some images have none: {detail}"
    return alarm("zero_gradients", worst, len(sample.images), sample.limits, detail)


def finite_differences(sample: Sample) -> Alarm:
    """G6: the margin's derivative along the gradient's signs and along random ones is its slope.

    A model that rounds has neither slope nor gradient and is found by G5. Straight-through
    gradients are no slopes on purpose: the gate does not apply to them.
    """
    if not sample.exact_gradients:
        why = "gradients are a stand-in on purpose"
        return alarm("finite_differences", None, len(sample.images), sample.limits, why)
    x, y = sample.images.floats().clamp(STEP, 1 - STEP), sample.images.labels
    gradient = _gradient(sample.model, x, y, _margin)
    rng = sample.rng("G6")
    coins = torch.randint(2, x.shape, generator=rng, device=rng.device).to(x)
    errors = {
        "along the gradient": _error(sample.model, x, y, gradient, gradient.sign()),
        "along random signs": _error(sample.model, x, y, gradient, 2 * coins - 1),
    }
    detail = ", ".join(f"{what}: {error:.3g}" for what, error in errors.items())
    worst = max(errors.values())
    return alarm("finite_differences", worst, len(sample.images), sample.limits, detail)


def _error(model: Model, x: Tensor, y: Tensor, gradient: Tensor, direction: Tensor) -> float:
    """Median over images of |f - a| / (|f| + |a|): finite difference and analytic derivative."""
    above, below = (
        _margin(all_logits(model, Labelled(points, y)), y.cpu()).double()
        for points in (x + STEP * direction, x - STEP * direction)
    )
    difference = (above - below) / (2 * STEP)
    analytic = (gradient.double() * direction).flatten(1).sum(1).cpu()
    size = difference.abs() + analytic.abs()
    # Both zero: they agree, and the quotient must not be NaN.
    return float(((difference - analytic).abs() / size.clamp(min=1e-300)).median())


def _share_of_zeros(model: Model, x: Tensor, y: Tensor, loss: Loss) -> float:
    gradient = _gradient(model, x, y, loss)
    return float((gradient == 0).flatten(1).all(1).double().mean())


def _gradient(model: Model, x: Tensor, y: Tensor, loss: Loss) -> Tensor:
    parts = []
    for points, labels in zip(x.split(BATCH), y.split(BATCH), strict=True):
        inputs = points.detach().clone().requires_grad_()
        with torch.enable_grad():
            total = loss(model(inputs), labels).sum()
        if not total.requires_grad:
            raise ModelError("got logits without gradients, expected a differentiable model")
        (gradient,) = torch.autograd.grad(total, inputs, allow_unused=True, materialize_grads=True)
        parts.append(gradient)
    joined = torch.cat(parts)
    if not joined.isfinite().all():
        bad = int((~joined.isfinite()).flatten(1).any(1).sum())
        raise NumericsError(f"input gradients are not finite for {bad} of {len(x)} images")
    return joined


def _ce(logits: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(logits, y, reduction="none")


def _margin(logits: Tensor, y: Tensor) -> Tensor:
    others = logits.scatter(1, y[:, None], -float("inf"))
    return others.amax(1) - logits.gather(1, y[:, None])[:, 0]
