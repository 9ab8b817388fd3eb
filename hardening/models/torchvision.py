"""Any classifier of torchvision by name, fitted to the channels, size and classes of the data.

Shapes: C channels, H x W pixels, K classes.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import nn
from torchvision import models

from hardening.errors import ConfigError
from hardening.spec import look_up


def torchvision(
    shape: tuple[int, int, int],
    classes: int,
    /,
    *,
    architecture: str,
    stem: Literal["imagenet", "small"] = "imagenet",
) -> nn.Module:
    """A torchvision classifier with initial weights.

    Args:
        architecture: Its name in torchvision, such as resnet18 or mobilenet_v3_small.
        stem: small = a 3x3 first convolution of stride 1 and no max-pooling, for 32x32 images.

    Raises:
        ConfigError: There is no such classifier, it has no small stem, or it cannot take images
            of this shape.
    """
    names = {name: name for name in models.list_models(module=models)}
    look_up(names, architecture, "torchvision.architecture")
    with _refusals(architecture, shape):
        net: nn.Module = models.get_model(
            architecture, weights=None, num_classes=classes, **_arguments(architecture, shape)
        )
    _fit_channels(net, shape[0])
    if stem == "small":
        _shrink_stem(net, architecture)
    with _refusals(architecture, shape), torch.no_grad():
        net.eval()(torch.zeros(1, *shape))
    return net.train()


@contextmanager
def _refusals(architecture: str, shape: tuple[int, int, int]) -> Iterator[None]:
    """Each family refuses images in its own way: say it in ours."""
    try:
        yield
    except (RuntimeError, ValueError, AssertionError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ConfigError(
            f"torchvision: {architecture} cannot take images of shape {shape}: {reason}"
        ) from error


def _arguments(architecture: str, shape: tuple[int, int, int]) -> dict[str, Any]:
    """What some families must be told so that they fit the images and return logits only."""
    if architecture.startswith("vit_"):
        return {"image_size": shape[1]}
    if architecture.startswith("maxvit"):
        return {"input_size": shape[1:]}
    if architecture in {"googlenet", "inception_v3"}:
        return {"aux_logits": False, "init_weights": True}
    return {}


def _fit_channels(net: nn.Module, channels: int) -> None:
    name, first = next((n, m) for n, m in net.named_modules() if isinstance(m, nn.Conv2d))
    if first.in_channels != channels:
        _replace(net, name, _convolution(first, channels, first.kernel_size, first.stride))


def _shrink_stem(net: nn.Module, architecture: str) -> None:
    if not isinstance(net, models.ResNet):
        raise ConfigError(
            f"torchvision: {architecture} has no small stem, expected stem: imagenet "
            "or an architecture of the ResNet family"
        )
    net.conv1 = _convolution(net.conv1, net.conv1.in_channels, (3, 3), (1, 1))
    net.maxpool = nn.Identity()


def _convolution(
    like: nn.Conv2d, channels: int, kernel: tuple[int, ...], stride: tuple[int, ...]
) -> nn.Conv2d:
    small = kernel != like.kernel_size
    return nn.Conv2d(
        channels,
        like.out_channels,
        kernel,  # type: ignore[arg-type]
        stride,  # type: ignore[arg-type]
        padding=1 if small else like.padding,  # type: ignore[arg-type]
        bias=like.bias is not None,
    )


def _replace(net: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, leaf = name.rpartition(".")
    setattr(net.get_submodule(parent), leaf, module)
