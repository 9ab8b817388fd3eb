"""Fast gradient sign method, https://arxiv.org/abs/1412.6572."""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from attacks.gradient import differentiate, look
from attacks.losses import LOSSES, Loss
from attacks.search import Search, rows
from hardening.attack import Found, describes
from hardening.threat import Model, ThreatModel


@describes("gradients", norms=("linf", "l2", "l1", "l0"))
def fgsm(
    model: Model,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    rng: torch.Generator,
    /,
    *,
    loss: Loss = "ce",
    start: Annotated[float, Field(ge=0, lt=1)] = 0.0,
) -> Found:
    """One step to where a loss as straight as its gradient would be highest, (B, ...).

    With a random `start` this is R+FGSM, https://arxiv.org/abs/1705.07204: a jump of that share of
    eps towards random signs (in the other norms, the step that noise for a gradient asks for), then
    the rest of eps along the gradient there. Costs three forward passes and one backward pass.

    Args:
        loss: What the step raises.
        start: Share of eps for a random jump before the step; 0 for none.

    Raises:
        ModelError: The model has no gradients or does not return logits (B, K).
        NumericsError: A logit or a gradient is not finite.
    """
    objective = LOSSES[loss]
    search = Search(model, x, y, objective, rng)
    points = threat.scaled(start).summit(search.x, search.normal()) if start > 0 else search.x
    if search.done:
        return search.found
    logits, losses, gradient = differentiate(model, points, objective, search.y)
    points, losses, gradient = rows(search.settle(points, logits), points, losses, gradient)
    if search.done:
        return search.found
    search.offer(points, losses)
    points = threat.project(search.x, threat.scaled(1 - start).summit(points, gradient))
    logits, losses = look(model, points, objective, search.y)
    search.offer(*rows(search.settle(points, logits), points, losses))
    return search.found
