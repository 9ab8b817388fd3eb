"""Quantization of the exported graph, as the last link of a chain of defenses.

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
from hardening.deployment.storage import store_in_4_bits
from hardening.deployment.twin import Twin
from hardening.evidence import Kind
from hardening.log import Log
from hardening.threat import ThreatModel

Bits = Literal[8, 4, 3]

DUE: tuple[Kind, ...] = ("straight-through", "transfer", "differential", "gradient-free")
"""Rounding hides gradients, and a file that is not its float parent errs where that does not."""


@declares(
    mechanism="stores the exported graph in few bits, nothing trained",
    due=DUE,
    status="AT-BASED",
    passes=lambda _: 0,  # half of the few calibration images, once
    claim="a quarter of the bytes at nearly the same accuracy",
)
def quantization(
    model: nn.Module,
    data: TrainingData,
    threat: ThreatModel,
    rng: torch.Generator,
    log: Log,
    /,
    *,
    bits: Bits = 8,
    calibration_images: Annotated[int, Field(ge=2)] = 256,
    method: Method = "minmax",
) -> Twin:
    """Export `model`, quantize the file, and give back the file's twin.

    Quantization adds no robustness of its own: it keeps what the model has, in a quarter of the
    bytes, and with 4 bits or fewer in an eighth. Half of the calibration images carry one gradient
    step of the threat model, because activations under attack range wider than clean ones.

    Args:
        bits: 8 for weights and activations, computed with integers; 4 or 3 for weights alone, which
            are float32 again when the file is loaded: a smaller file, no faster one. No runtime has
            a type of 3 bits: such weights take 4 in the file.
        calibration_images: Training images that set the ranges of 8-bit activations, or all when
            there are fewer; a few hundred are enough.
        method: How a range is chosen from the activations seen; minmax clips nothing seen.
    """
    frozen = deepcopy(model).cpu().eval()
    channels, height, width = data.train.images.shape[1:]
    exported = export(frozen, (channels, height, width))
    if bits == 8:
        seen = calibration(frozen, data, threat, rng, calibration_images)
        quantized, how = quantize_int8(exported, seen, method=method), f"on {len(seen)} images"
    else:
        quantized, how = store_in_4_bits(exported, bits), f"weights to {bits} bits, stored in 4"
    log.line(f"quantized {how}: {len(exported):,} -> {len(quantized):,} bytes")
    return Twin(quantized)


def calibration(
    model: nn.Module, data: TrainingData, threat: ThreatModel, rng: torch.Generator, images: int
) -> Tensor:
    """Training images (N, C, H, W) that show activations clean and, in their second half, attacked.

    Args:
        images: How many, or all when there are fewer.
    """
    order = torch.randperm(len(data.train), generator=rng, device=rng.device).cpu()
    chosen = data.train.take(order[:images])
    x, y = chosen.floats(), chosen.labels
    half = len(x) // 2
    return torch.cat([x[:half], _step(model, x[half:], y[half:], threat)])


def _step(model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel) -> Tensor:
    """One step of the size of the threat model, up the cross-entropy."""
    images = x.clone().requires_grad_()
    loss = F.cross_entropy(model(images), y, reduction="sum")
    (gradient,) = torch.autograd.grad(loss, images)
    return threat.project(x, x + threat.eps * threat.ascend(gradient))
