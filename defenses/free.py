"""Free adversarial training: one backward pass moves weights and images,
https://arxiv.org/abs/1904.12843.

Shapes: B images, C channels, H x W pixels, K classes.
"""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from defenses.declaration import declares
from defenses.scores import robust_accuracy
from defenses.training import Loop, Loss, fit
from hardening.data import TrainingData
from hardening.log import Log
from hardening.threat import ThreatModel


class Replaying(Loop):
    """The loop's options where a batch stays in one piece."""

    accumulate: Literal[1] = Field(
        default=1, description="each part of a batch would move the same perturbation"
    )


REPLAYED = Replaying(epochs=5, replays=4)


@declares(
    "trains on perturbations that the training step itself moves on",
    due=("white-box", "gradient-free"),
    status="SOLID",
    passes=lambda params: params["loop"].passes(1),
    claim="recycled gradients make adversarial training cost no more than plain training",
)
def free(
    model: nn.Module,
    data: TrainingData,
    threat: ThreatModel,
    rng: torch.Generator,
    log: Log,
    /,
    *,
    loop: Replaying = REPLAYED,
) -> nn.Module:
    """Minimise the cross entropy on perturbed images, `replays` times each batch.

    The backward pass that trains the weights gives the gradient in the pixels, too, which moves
    the perturbation one step of length eps for the next time; the next batch starts from it. A
    training step costs a plain one, an epoch `replays` of them.
    """
    carried = torch.zeros(loop.batch_size, *data.train.images.shape[1:])
    score = robust_accuracy(threat, rng)
    return fit(
        model,
        data,
        carrying(carried),
        score,
        rng,
        log,
        loop=loop,
        threat=threat,
        memory={"carried": carried},
        single_step=True,
    )


def carrying(carried: Tensor) -> Loss:
    """The mean cross entropy of a batch at x + `carried` (B, C, H, W), which backward moves on."""

    def loss(model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel | None) -> Tensor:
        assert threat is not None
        x_adv = threat.project(x, x + carried[: len(x)].to(x)).requires_grad_()

        def move_on(gradient: Tensor) -> None:
            moved = x_adv.detach() + threat.eps * threat.ascend(gradient)
            carried[: len(x)] = (threat.project(x, moved) - x).to(carried)

        x_adv.register_hook(move_on)
        return F.cross_entropy(model(x_adv), y)

    return loss
