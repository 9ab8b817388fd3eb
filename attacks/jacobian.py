"""Gradients of several logits of each image, from one forward pass.

Shapes: B images (B, ...), K classes, m of them asked for each image.
"""

import torch
from torch import Tensor

from attacks.gradient import batches, check_finite, check_logits, draws, mean
from hardening.errors import ModelError
from hardening.threat import Model


def gaps(model: Model, x: Tensor, y: Tensor, classes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Logits, gaps and the gaps' gradients by one forward and m backward passes.

    A gap is the logit of one of `classes` (B, m) minus that of the label `y`. Returns (B, K),
    (B, m) and (B, m, ...). A random model is averaged over its `draws`.

    Raises:
        ModelError: The model does not return logits (B, K) with K at least 2, or they do not
            depend differentiably on anything.
        NumericsError: A logit or a gradient is not finite.
    """
    parts = []
    for points, *row in batches(x.detach(), y, classes):
        parts.append(mean([_pass(model, points, *row) for _ in range(draws(model))]))
    logits, values, gradients = (torch.cat(column) for column in zip(*parts, strict=True))
    return logits, values, gradients


@torch.enable_grad()
def _pass(model: Model, x: Tensor, y: Tensor, classes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    x = x.detach().requires_grad_()
    logits = model(x)
    check_logits(logits, x)
    values = logits.gather(1, classes) - logits.gather(1, y[:, None])
    totals = values.sum(0)
    if not totals.requires_grad:
        raise ModelError(
            "got logits without gradients, expected a differentiable model or `square`"
        )
    gradients = []
    for place, total in enumerate(totals):
        (gradient,) = torch.autograd.grad(
            total,
            x,
            retain_graph=place + 1 < len(totals),
            allow_unused=True,
            materialize_grads=True,
        )
        check_finite(gradient, "input gradient")
        gradients.append(gradient)
    return logits.detach(), values.detach(), torch.stack(gradients, 1)
