"""The inner maximisation of adversarial training.

Unlike an attack it keeps no record of successes and does not restart: training needs the last
iterate only, and as cheaply as possible. Shapes: B images, C channels, H x W pixels.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from defenses.attacked import attacked
from hardening.threat import ThreatModel

Objective = Callable[[Tensor], Tensor]
"""Maps images (B, C, H, W) to the scalar to raise, a sum over images."""


def maximise(
    objective: Objective,
    x: Tensor,
    start: Tensor,
    threat: ThreatModel,
    /,
    *,
    steps: int,
    step: float,
) -> Tensor:
    """Projected steepest ascent on `objective` around `x` (B, C, H, W), `step` in pixel units."""
    x_adv = start
    for _ in range(steps):
        x_adv = x_adv.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(objective(x_adv), x_adv)
        x_adv = threat.project(x, x_adv.detach() + step * threat.ascend(gradient))
    return x_adv.detach()


def worst(
    model: nn.Module, x: Tensor, y: Tensor, start: Tensor, threat: ThreatModel, /, *, steps: int
) -> Tensor:
    """Images (B, C, H, W) that PGD on the cross entropy finds from `start`.

    Each step is 2.5 eps / `steps` long. Labels `y` are (B,); the model stands still meanwhile.
    """

    def objective(x_adv: Tensor) -> Tensor:
        return F.cross_entropy(model(x_adv), y, reduction="sum")

    with attacked(model):
        return maximise(objective, x, start, threat, steps=steps, step=2.5 * threat.eps / steps)


def beside(x: Tensor, threat: ThreatModel, rng: torch.Generator) -> Tensor:
    """`x` and a little noise: what a divergence from the answer at `x` has a gradient at."""
    aside = torch.randn(x.shape, generator=rng, device=rng.device).to(x)
    return threat.project(x, x + 0.001 * aside)
