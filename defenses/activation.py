"""Which of a network's activations to look at, and what it is like.

Shapes: activations (B, C', H', W').
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from defenses.attacked import still
from hardening.errors import ModelError
from hardening.spec import suggest

PIXELS = 16
"""Pixels a side that are enough to look at, however large the images are."""


class Activation(NamedTuple):
    """Path of the module that gives it, its channels, and the shorter side in pixels."""

    path: str
    channels: int
    side: int


def choose_layer(model: nn.Module, shape: tuple[int, ...], path: str, where: str) -> Activation:
    """The activation at `path`, or the last one with at least half the sides of the image.

    Half, but 16 pixels at most: behind the second of three stages of a small network.

    Args:
        shape: (C, H, W) of an image.
        where: Who asks, for errors.

    Raises:
        ModelError: There is no such module, or what it gives is no (B, C', H', W').
    """
    found = _activations(model, shape)
    named = dict(model.named_modules())
    if path:
        if path not in named:
            raise ModelError(f"{where}.layer: unknown module {path!r}, {suggest(path, named)}")
        if path not in found:
            raise ModelError(
                f"{where}.layer: module {path!r} gives no activation (C, H, W), expected one of "
                f"{', '.join([*found][:6]) or 'a convolutional network'}"
            )
        return found[path]
    least = min(PIXELS, -(-min(shape[1:]) // 2))
    large = [seen for seen in found.values() if seen.side >= least]
    if not large:
        raise ModelError(
            f"{where}: got a model without a module that gives an activation (C, H, W) of {least} "
            "pixels a side, expected a convolutional network: an ONNX file has no such modules"
        )
    return large[-1]


def _activations(model: nn.Module, shape: tuple[int, ...]) -> dict[str, Activation]:
    """Every module that gives one, in the order in which they are done."""
    found: dict[str, Activation] = {}

    def keep(path: str, output: object) -> None:
        if isinstance(output, Tensor) and output.ndim == 4:
            found.pop(path, None)
            found[path] = Activation(path, output.shape[1], min(output.shape[2:]))

    handles = [
        module.register_forward_hook(lambda _, __, output, path=path: keep(path, output))
        for path, module in model.named_modules()
    ]
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    try:
        with still(model), torch.no_grad():
            model(torch.full((1, *shape), 0.5, device=device))
    finally:
        for handle in handles:
            handle.remove()
    return found
