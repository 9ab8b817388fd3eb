"""Fast gradient sign method, https://arxiv.org/abs/1412.6572."""

import torch
from torch import Tensor

from attacks.gradient import differentiate
from attacks.losses import LOSSES, Loss
from hardening.threat import Model, ThreatModel, per_image


def fgsm(
    model: Model,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    rng: torch.Generator,  # noqa: ARG001
    /,
    *,
    loss: Loss = "ce",
) -> Tensor:
    """One step of steepest ascent to the border of the threat model, (B, ...); `rng` is unused.

    Costs one forward and one backward pass. A misclassified image is returned as it is.

    Args:
        loss: What the step raises.

    Raises:
        ModelError: The model has no gradients or does not return logits (B, K).
        NumericsError: A logit or a gradient is not finite.
    """
    x = x.detach()
    logits, _, gradient = differentiate(model, x, y, LOSSES[loss])
    stepped = threat.project(x, x + threat.eps * threat.ascend(gradient))
    return torch.where(per_image(logits.argmax(1) == y, x), stepped, x)
