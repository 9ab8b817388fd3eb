"""Held to what the given model answers on clean images."""

import torch
from torch import Tensor, nn

from defenses.attacked import attacked
from defenses.divergence import divergence
from defenses.loop import Loss
from hardening.threat import ThreatModel


def anchored(loss: Loss, given: nn.Module, weight: float) -> Loss:
    """`loss` + `weight` x KL(given(x) || model(x)), mean over the batch; keeps its calibration."""

    def both(model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel | None) -> Tensor:
        with attacked(given), torch.no_grad():
            target = given(x).log_softmax(1)
        drift = divergence(target, model(x).log_softmax(1)).mean()
        return loss(model, x, y, threat) + weight * drift

    return both
