"""int8 quantization of the exported graph, as a link of a chain of defenses.

Shapes: N images, C channels, H x W pixels.
"""

from copy import deepcopy
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from defenses.declaration import declares
from hardening.data import TrainingData
from hardening.deployment.export import export
from hardening.deployment.quantize import Method, quantize_int8
from hardening.deployment.twin import Twin
from hardening.log import Log
from hardening.threat import ThreatModel


@declares(
    mechanism="int8 static quantization of the exported graph",
    due=("straight-through", "transfer", "gradient-free"),
    status="AT-BASED",
    passes=lambda _: 0,  # half of the few calibration images, once
)
def quantization(
    model: nn.Module,
    data: TrainingData,
    threat: ThreatModel,
    rng: torch.Generator,
    log: Log,
    /,
    *,
    bits: Literal[8] = 8,
    calibration_images: Annotated[int, Field(ge=2)] = 256,
    method: Method = "minmax",
) -> Twin:
    """Export `model`, quantize the file, and give back the file's twin.

    Quantization adds no robustness of its own: it keeps what the model has, in a quarter of the
    bytes. Half of the calibration images carry one gradient step of the threat model, because
    activations under attack range wider than clean ones.

    Args:
        bits: Width of weights and activations.
        calibration_images: Training images that set the ranges, or all when there are fewer; a few
            hundred are enough.
        method: How a range is chosen from the activations seen; minmax clips nothing seen.
    """
    frozen = deepcopy(model).cpu().eval()
    order = torch.randperm(len(data.train), generator=rng, device=rng.device).cpu()
    chosen = data.train.take(order[:calibration_images])
    x, y = chosen.floats(), chosen.labels
    half = len(x) // 2
    calibration = torch.cat([x[:half], _step(frozen, x[half:], y[half:], threat)])
    channels, height, width = x.shape[1:]
    exported = export(frozen, (channels, height, width))
    quantized = quantize_int8(exported, calibration, method=method)
    log.line(
        f"quantized to {bits} bits on {len(x)} images: "
        f"{len(exported):,} -> {len(quantized):,} bytes"
    )
    return Twin(quantized)


def _step(model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel) -> Tensor:
    """One step of the size of the threat model, up the cross-entropy."""
    images = x.clone().requires_grad_()
    loss = F.cross_entropy(model(images), y, reduction="sum")
    (gradient,) = torch.autograd.grad(loss, images)
    return threat.project(x, x + threat.eps * threat.ascend(gradient))
