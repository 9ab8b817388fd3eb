"""Logits, losses and input gradients of a model, and nothing else touched.

Shapes: B images (any rank from 1 on), K classes; logits (B, K), losses (B,), gradient like x.
"""

import torch
from torch import Tensor

from attacks.losses import LossFunction
from hardening.errors import ModelError, NumericsError
from hardening.threat import Model


@torch.no_grad()
def look(model: Model, x: Tensor, y: Tensor, loss: LossFunction) -> tuple[Tensor, Tensor]:
    """Logits and losses at `x` by one forward pass.

    Raises:
        ModelError: The model does not return logits (B, K) with K at least 2.
        NumericsError: A logit is not finite.
    """
    logits = model(x)
    _check_logits(logits, x)
    return logits, loss(logits, y)


def differentiate(
    model: Model, x: Tensor, y: Tensor, loss: LossFunction
) -> tuple[Tensor, Tensor, Tensor]:
    """Logits, losses and the gradient of each image's loss by one forward and one backward pass.

    The parameters' `.grad` is left alone, and gradients are computed under `torch.no_grad` too.

    Raises:
        ModelError: The model does not return logits (B, K) with K at least 2, or they do not
            depend differentiably on anything.
        NumericsError: A logit or a gradient is not finite.
    """
    x = x.detach().requires_grad_()
    with torch.enable_grad():
        logits = model(x)
        _check_logits(logits, x)
        losses = loss(logits, y)
        # A sum keeps images apart: a mean would make each gradient depend on the batch's size.
        total = losses.sum()
    if not total.requires_grad:
        raise ModelError(
            "got logits without gradients, expected a differentiable model or `square`"
        )
    (gradient,) = torch.autograd.grad(total, x, allow_unused=True, materialize_grads=True)
    _check_finite(gradient, "input gradient")
    return logits.detach(), losses.detach(), gradient


def _check_logits(logits: Tensor, x: Tensor) -> None:
    if logits.ndim != 2 or len(logits) != len(x) or logits.shape[1] < 2:
        raise ModelError(
            f"got logits of shape {tuple(logits.shape)} for {len(x)} images, "
            f"expected ({len(x)}, K) with K at least 2"
        )
    _check_finite(logits, "logit")


def _check_finite(values: Tensor, what: str) -> None:
    if not values.isfinite().all():
        bad = int((~values.isfinite()).flatten(1).any(1).sum())
        raise NumericsError(f"{what}s are not finite for {bad} of {len(values)} images")
