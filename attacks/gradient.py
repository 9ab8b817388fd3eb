"""Logits, losses and input gradients of a model, and nothing else touched.

Shapes: B images (any rank from 1 on), K classes; logits (B, K), losses (B,), gradient like x.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from attacks.losses import LossFunction
from hardening.errors import ModelError, NumericsError
from hardening.threat import Model

BATCH = 64
"""Images a model sees at a time; larger batches leave a processor's cache and are slower. Attacks
hand over all images that still stand, so that no batch but the last is ever half empty."""


@torch.no_grad()
def look(model: Model, x: Tensor, loss: LossFunction, *context: Tensor) -> tuple[Tensor, Tensor]:
    """Logits and losses at `x` by one forward pass (`draws` of them for a random model).

    Args:
        loss: Called as `loss(logits, *context)`.
        context: What it needs beside logits, one row per image: labels, targets, ...

    Raises:
        ModelError: The model does not return logits (B, K) with K at least 2.
        NumericsError: A logit is not finite.
    """
    parts = []
    for points, *row in batches(x, *context):
        drawn = []
        for _ in range(draws(model)):
            logits = model(points)
            check_logits(logits, points)
            drawn.append((logits, loss(logits, *row)))
        parts.append(mean(drawn))
    logits, losses = (torch.cat(column) for column in zip(*parts, strict=True))
    return logits, losses


def differentiate(
    model: Model, x: Tensor, loss: LossFunction, *context: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Logits, losses and the gradient of each image's loss by one forward and one backward pass.

    The parameters' `.grad` is left alone, and gradients are computed under `torch.no_grad` too.
    For a random model that asks for `draws`, all three are means over as many passes: the
    expectation over transformation of Athalye et al. (2018), https://arxiv.org/abs/1707.07397.

    Args:
        loss: Called as `loss(logits, *context)`.
        context: What it needs beside logits, one row per image: labels, targets, ...

    Raises:
        ModelError: The model does not return logits (B, K) with K at least 2, or they do not
            depend differentiably on anything.
        NumericsError: A logit or a gradient is not finite.
    """
    parts = []
    for points, *row in batches(x.detach(), *context):
        drawn = [_pass(model, points, loss, row) for _ in range(draws(model))]
        parts.append(mean(drawn))
    logits, losses, gradient = (torch.cat(column) for column in zip(*parts, strict=True))
    return logits, losses, gradient


def draws(model: Model) -> int:
    """How many passes make one answer: more than one for a random model under expectation."""
    return int(getattr(model, "draws", 1))


def _pass(
    model: Model, x: Tensor, loss: LossFunction, row: list[Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    x = x.detach().requires_grad_()
    with torch.enable_grad():
        logits = model(x)
        check_logits(logits, x)
        losses = loss(logits, *row)
        # A sum keeps images apart: a mean would make each gradient depend on the batch's size.
        total = losses.sum()
    if not total.requires_grad:
        raise ModelError(
            "got logits without gradients, expected a differentiable model or `square`"
        )
    (gradient,) = torch.autograd.grad(total, x, allow_unused=True, materialize_grads=True)
    check_finite(gradient, "input gradient")
    return logits.detach(), losses.detach(), gradient


def batches(x: Tensor, *context: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """At least one batch, an empty one for no images."""
    for start in range(0, max(len(x), 1), BATCH):
        yield tuple(tensor[start : start + BATCH] for tensor in (x, *context))


def mean(drawn: Sequence[tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
    """The mean of what several passes gave, tensor by tensor."""
    if len(drawn) == 1:
        return drawn[0]
    return tuple(torch.stack(column).mean(0) for column in zip(*drawn, strict=True))


def check_logits(logits: Tensor, x: Tensor) -> None:
    """Refuse what are no logits (B, K) of the images `x`, or not finite."""
    if logits.ndim != 2 or len(logits) != len(x) or logits.shape[1] < 2:
        raise ModelError(
            f"got logits of shape {tuple(logits.shape)} for {len(x)} images, "
            f"expected ({len(x)}, K) with K at least 2"
        )
    check_finite(logits, "logit")


def check_finite(values: Tensor, what: str) -> None:
    """Refuse `values` (B, ...) with NaN or infinity in them; `what` names them in the error."""
    if not values.isfinite().all():
        bad = int((~values.isfinite()).flatten(1).any(1).sum())
        raise NumericsError(f"{what}s are not finite for {bad} of {len(values)} images")
