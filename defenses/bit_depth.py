"""Images of fewer grey levels in front of a model, https://arxiv.org/abs/1704.01155.

Shapes: B images, C channels, H x W pixels, K classes.
"""

from collections.abc import Sequence
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from defenses.declaration import declares
from defenses.preprocessing import Prepared, in_front
from hardening.data import TrainingData
from hardening.deployment.twin import Twin
from hardening.log import Log
from hardening.spec import Spec
from hardening.threat import ThreatModel

Bits = Annotated[int, Field(ge=1, le=8)]


@declares(
    "fewer grey levels in front of the model, inside the file",
    due=("bpda", "gradient-free"),
    status="BROKEN",
    passes=lambda _: 0,
    claim="fewer grey levels squeeze adversarial perturbations out",
)
def bit_depth(
    model: nn.Module,
    data: TrainingData,
    threat: ThreatModel,  # noqa: ARG001
    rng: torch.Generator,  # noqa: ARG001
    log: Log,
    /,
    *,
    bits: Bits = 4,
) -> Prepared | Twin:
    """Round each pixel to 2^bits levels before `model` sees it; nothing is trained.

    It undoes perturbations below half a level of attackers who do not know of it, and has no
    gradient: an attack that passes gradients through the rounding breaks it
    (https://arxiv.org/abs/1802.00420).

    Args:
        bits: Of a channel; 1 is black and white, 8 what an image has anyway.

    Raises:
        ModelError: A file cannot be put behind it.
    """
    channels, height, width = data.train.images.shape[1:]
    spec = Spec(name="bit_depth", params={"bits": bits})
    log.line(f"{2**bits} levels a channel in front of the model")
    return in_front(model, spec, Squeeze(bits), (channels, height, width))


def behind_bit_depth(parts: Sequence[nn.Module], *, bits: Bits) -> Prepared:
    """A model behind fewer grey levels, as its file describes it."""
    return Prepared(Spec(name="bit_depth", params={"bits": bits}), parts, Squeeze(bits))


class Squeeze(nn.Module):
    """Images (B, C, H, W) in [0, 1] to the nearest of 2^bits levels."""

    def __init__(self, bits: int) -> None:
        super().__init__()
        self.steps: int = 2**bits - 1

    def forward(self, x: Tensor) -> Tensor:
        """Of the shape of `x`."""
        return (x * self.steps).round() / self.steps
