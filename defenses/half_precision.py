"""Weights in float16, as the last link of a chain of defenses."""

from copy import deepcopy

import torch
from torch import nn

from defenses.declaration import declares
from hardening.data import TrainingData
from hardening.deployment.export import export
from hardening.deployment.storage import store_in_float16
from hardening.deployment.twin import Twin
from hardening.log import Log
from hardening.threat import ThreatModel


@declares(
    mechanism="weights of the exported graph stored in float16",
    due=("white-box", "transfer", "gradient-free"),
    status="AT-BASED",
    passes=lambda _: 0,
    claim="half of the bytes at the same accuracy",
)
def half_precision(
    model: nn.Module,
    data: TrainingData,
    threat: ThreatModel,  # noqa: ARG001
    rng: torch.Generator,  # noqa: ARG001
    log: Log,
    /,
) -> Twin:
    """Export `model`, store its weights in float16, and give back the file's twin.

    Half the bytes; images, logits and all arithmetic stay float32. It adds no robustness: the
    gradients of the file are those of the rounded weights, and nothing hides them.
    """
    channels, height, width = data.train.images.shape[1:]
    exported = export(deepcopy(model).cpu().eval(), (channels, height, width))
    stored = store_in_float16(exported)
    log.line(f"stored in float16: {len(exported):,} -> {len(stored):,} bytes")
    return Twin(stored)
