"""Plain training: the control that every hardened model is compared with.

Shapes: B images, C channels, H x W pixels, K classes.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from defenses.scores import clean_accuracy
from defenses.training import Loop, fit
from hardening.data import TrainingData
from hardening.log import Log
from hardening.threat import ThreatModel


def standard(
    model: nn.Module,
    data: TrainingData,
    rng: torch.Generator,
    log: Log,
    /,
    *,
    loop: Loop = Loop(),  # noqa: B008
) -> nn.Module:
    """Minimise the cross entropy on clean images; the best epoch by clean validation accuracy."""
    return fit(model, data, cross_entropy, clean_accuracy, rng, log, loop=loop, threat=None)


def cross_entropy(model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel | None) -> Tensor:  # noqa: ARG001
    """The mean over a batch (B, C, H, W) with labels (B,), a scalar."""
    return F.cross_entropy(model(x), y)
