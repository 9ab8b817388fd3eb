"""The inner maximisation of adversarial training.

Unlike an attack it keeps no record of successes and does not restart: training needs the last
iterate only, and as cheaply as possible. Shapes: B images, C channels, H x W pixels.
"""

from collections.abc import Callable

import torch
from torch import Tensor

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
