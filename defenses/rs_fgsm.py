"""RS-FGSM: single-step adversarial training from a random start, https://arxiv.org/abs/2001.03994.

Shapes: B images, C channels, H x W pixels, K classes.
"""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from defenses.attacked import attacked
from defenses.declaration import declares
from defenses.inner import maximise
from defenses.scores import robust_accuracy
from defenses.training import Loop, Loss, fit
from hardening.data import TrainingData
from hardening.log import Log
from hardening.threat import ThreatModel


@declares(
    "trains on one long step from a random start",
    due=("white-box", "gradient-free"),
    status="SOLID",
    passes=lambda params: params["loop"].passes(2),
    claim="one step from a random start is as effective as PGD training at a fraction of its cost",
)
def rs_fgsm(
    model: nn.Module,
    data: TrainingData,
    threat: ThreatModel,
    rng: torch.Generator,
    log: Log,
    /,
    *,
    step: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.25,
    loop: Loop = Loop(),  # noqa: B008
) -> nn.Module:
    """Minimise the cross entropy one projected gradient step away from a random start.

    Args:
        step: Its length in multiples of eps, at 2 training soon fits this one step and nothing
            else; a training step costs 2 plain ones.
    """
    loss = projected_step(rng, step=step)
    score = robust_accuracy(threat, rng)
    return fit(model, data, loss, score, rng, log, loop=loop, threat=threat, single_step=True)


def projected_step(rng: torch.Generator, *, step: float) -> Loss:
    """The mean cross entropy of a batch at a random start + one step, inside the threat model."""

    def loss(model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel | None) -> Tensor:
        assert threat is not None

        def objective(x_adv: Tensor) -> Tensor:
            return F.cross_entropy(model(x_adv), y, reduction="sum")

        with attacked(model):
            start, length = threat.sample(x, rng), step * threat.eps
            x_adv = maximise(objective, x, start, threat, steps=1, step=length)
        return F.cross_entropy(model(x_adv), y)

    return loss
