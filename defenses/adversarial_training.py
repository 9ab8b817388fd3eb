"""Adversarial training with projected gradient descent, https://arxiv.org/abs/1706.06083.

Shapes: B images, C channels, H x W pixels, K classes.
"""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from defenses.declaration import declares
from defenses.inner import worst
from defenses.scores import robust_accuracy
from defenses.training import Loop, Loss, fit
from hardening.data import TrainingData
from hardening.log import Log
from hardening.threat import ThreatModel


@declares(
    "trains on PGD examples",
    due=("white-box", "gradient-free"),
    status="SOLID",
    passes=lambda params: params["loop"].passes(params["steps"] + 1),
    claim="training on the worst images that PGD finds resists all first-order "
    "adversaries of the threat model",
)
def adversarial_training(
    model: nn.Module,
    data: TrainingData,
    threat: ThreatModel,
    rng: torch.Generator,
    log: Log,
    /,
    *,
    steps: Annotated[int, Field(ge=1)] = 7,
    loop: Loop = Loop(),  # noqa: B008
) -> nn.Module:
    """Minimise the cross entropy on the worst image that PGD finds in the threat model.

    Args:
        steps: Of PGD, each 2.5 eps / steps long; a training step costs steps + 1 plain ones.
    """
    loss = worst_case(rng, steps=steps)
    score = robust_accuracy(threat, rng)
    return fit(model, data, loss, score, rng, log, loop=loop, threat=threat)


def worst_case(rng: torch.Generator, *, steps: int) -> Loss:
    """The mean cross entropy of a batch at the images that PGD finds."""

    def loss(model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel | None) -> Tensor:
        assert threat is not None
        x_adv = worst(model, x, y, threat.sample(x, rng), threat, steps=steps)
        return F.cross_entropy(model(x_adv), y)

    return loss
