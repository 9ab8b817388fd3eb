"""N-FGSM: single-step adversarial training from noise, https://arxiv.org/abs/2202.01181.

Shapes: B images, C channels, H x W pixels, K classes.
"""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from defenses.attacked import attacked
from defenses.declaration import declares
from defenses.scores import robust_accuracy
from defenses.training import Loop, Loss, fit
from hardening.data import TrainingData
from hardening.log import Log
from hardening.threat import ThreatModel


@declares(
    "trains on one step from noise",
    due=("white-box", "gradient-free"),
    status="SOLID",
    passes=lambda params: params["loop"].passes(2),
    claim="one step from strong noise, not clipped, is as good as many steps and does not "
    "overfit catastrophically",
)
def n_fgsm(
    model: nn.Module,
    data: TrainingData,
    threat: ThreatModel,
    rng: torch.Generator,
    log: Log,
    /,
    *,
    noise: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 2.0,
    loop: Loop = Loop(),  # noqa: B008
) -> nn.Module:
    """Minimise the cross entropy one gradient step of length eps away from a noisy image.

    Args:
        noise: Radius of the noise in multiples of eps; a training step costs 2 plain ones.
    """
    loss = noisy_step(rng, noise=noise)
    score = robust_accuracy(threat, rng)
    return fit(model, data, loss, score, rng, log, loop=loop, threat=threat, single_step=True)


def noisy_step(rng: torch.Generator, *, noise: float) -> Loss:
    """The mean cross entropy of a batch at noise + one step, up to noise + 1 eps away from it."""

    def loss(model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel | None) -> Tensor:
        assert threat is not None
        with attacked(model):
            noisy = threat.scaled(noise).sample(x, rng).requires_grad_()
            (gradient,) = torch.autograd.grad(F.cross_entropy(model(noisy), y), noisy)
        # Not projected on the threat model: cutting the noise off is what makes one step overfit.
        x_adv = (noisy.detach() + threat.eps * threat.ascend(gradient)).clamp(0, 1)
        return F.cross_entropy(model(x_adv), y)

    return loss
