"""Whether the gradients of a twin lead anywhere.

Shapes: N images, B of them at a time, C channels, H x W pixels.
"""

import torch
from torch import Tensor

from hardening.deployment.parity import CHUNK
from hardening.deployment.twin import Twin
from hardening.errors import NoTwin


def check_gradients(twin: Twin, x: Tensor) -> None:
    """Refuse a twin whose gradients at images `x` (N, C, H, W) an attack cannot follow.

    Those of the lead of its first class over the second are looked at: it saturates nowhere.

    Raises:
        NoTwin: They are not finite for an image, or exactly zero for all.
    """
    broken, alive = 0, False
    for part in x.split(CHUNK):
        gradients = _of_the_lead(twin, part).flatten(1)
        broken += int((~gradients.isfinite()).any(1).sum())
        alive = alive or bool(gradients.any())
    if broken:
        raise NoTwin(f"{twin.name}: its gradients are not finite for {broken} of {len(x)} images")
    if not alive:
        raise NoTwin(f"{twin.name}: its gradients are zero for all of {len(x)} images")


def _of_the_lead(twin: Twin, x: Tensor) -> Tensor:
    points = x.detach().clone().requires_grad_()
    with torch.enable_grad():
        logits = twin(points)
        if not logits.requires_grad:
            return torch.zeros_like(x)
        first, second = logits.topk(2, dim=1).values.unbind(1)
        (gradients,) = torch.autograd.grad((first - second).sum(), points)
    return gradients
