"""Pruning under adversarial training, then int8: ATMC's aim, https://arxiv.org/abs/1902.03538.

Of the paper's three means, sparsity, factors and few values, it takes the first and the last, one
after the other, instead of by ADMM. Shapes: B images, C channels, H x W pixels, K classes.
"""

import zlib
from copy import deepcopy
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from defenses.adversarial_training import worst_case
from defenses.declaration import declares
from defenses.quantization import DUE, quantization
from defenses.scores import robust_accuracy
from defenses.training import Loop, fit
from hardening.data import TrainingData
from hardening.deployment.quantize import Method
from hardening.deployment.storage import precision
from hardening.deployment.trainable import Trainable
from hardening.deployment.twin import Twin
from hardening.deployment.untrusted import read_model
from hardening.errors import ModelError
from hardening.log import Log
from hardening.threat import ThreatModel

PRUNED = Loop(epochs=5)


@declares(
    mechanism="prunes the smallest weights, trains the others on PGD examples, stores in int8",
    due=DUE,
    status="AT-BASED",
    passes=lambda params: params["loop"].passes(params["steps"] + 1),
    claim="pruning, quantizing and adversarial training as one problem beat one after the other",
)
def compression(
    model: nn.Module,
    data: TrainingData,
    threat: ThreatModel,
    rng: torch.Generator,
    log: Log,
    /,
    *,
    share: Annotated[float, Field(gt=0, lt=1)] = 0.3,
    steps: Annotated[int, Field(ge=1)] = 7,
    calibration_images: Annotated[int, Field(ge=2)] = 256,
    method: Method = "minmax",
    loop: Loop = PRUNED,
) -> Twin:
    """Keep a share of the weights, train them on worst images, quantize, give back the twin.

    To be used on a hardened model. The file is dense: it is a quarter of its size by int8, and the
    zeros in it take their bytes and their time. Compressed, as archives and package indexes keep
    files, they take next to nothing; the log has both sizes.

    Args:
        share: Of the weights of Conv and Linear layers, the largest of all layers together, that
            are kept; biases and what belongs to normalisation are no part of it.
        steps: Of PGD, each 2.5 eps / steps long; a training step costs steps + 1 plain ones.
        calibration_images: Training images that set the ranges of 8-bit activations.
        method: How a range is chosen from the activations seen; minmax clips nothing seen.

    Raises:
        ModelError: A layer would lose all its weights, or the model is a quantized file.
    """
    start = _opened(model)
    masks = prune(start, share)
    loss, score = worst_case(rng, steps=steps), robust_accuracy(threat, rng)

    def constrain(now: nn.Module) -> None:
        hold(now, masks)

    trained = fit(start, data, loss, score, rng, log, loop=loop, threat=threat, constrain=constrain)
    sparse = Twin(trained.cpu().file()) if isinstance(trained, Trainable) else trained
    twin = quantization(
        sparse, data, threat, rng, log, calibration_images=calibration_images, method=method
    )
    kept, all_ = sum(int(m.sum()) for m in masks.values()), sum(m.numel() for m in masks.values())
    log.line(
        f"pruned to {kept:,} of {all_:,} weights: {len(twin.data):,} bytes, "
        f"{len(zlib.compress(twin.data, 9)):,} compressed"
    )
    return twin


def _opened(model: nn.Module) -> nn.Module:
    """A copy of `model` whose weights are parameters."""
    if not isinstance(model, Twin):
        return deepcopy(model)
    if (got := precision(read_model(model.data, model.name))) != "float32":
        raise ModelError(f"compression: got a file in {got}, expected float32: compress before")
    return Trainable(model.data)


@torch.no_grad()
def prune(model: nn.Module, share: float) -> dict[str, Tensor]:
    """Set all but the largest `share` of the weights to 0, in place; returns the masks by name.

    Raises:
        ModelError: A layer would lose all its weights.
    """
    weights = {name: p for name, p in model.named_parameters() if p.requires_grad and p.dim() > 1}
    if not weights:
        raise ModelError("compression: got a model without layers of weights, expected some")
    sizes = torch.cat([weight.abs().flatten() for weight in weights.values()])
    # The n-th largest by rank, not by a quantile: that one refuses more than 16 million numbers.
    limit = sizes.kthvalue(len(sizes) - max(1, round(share * len(sizes))) + 1).values
    masks = {name: weight.abs() >= limit for name, weight in weights.items()}
    for name, mask in masks.items():
        if not mask.any():
            raise ModelError(
                f"compression: share {share:g} leaves {name} without weights, expected a larger one"
            )
    hold(model, masks)
    return masks


@torch.no_grad()
def hold(model: nn.Module, masks: dict[str, Tensor]) -> None:
    """Set what `masks` leave out to 0, in place."""
    weights = dict(model.named_parameters())
    for name, mask in masks.items():
        weights[name].mul_(mask)
