"""Intervals through the modules of a plain network, with gradients, for training on them.

The certificate itself is computed on the exported file, by `hardening.certify.interval`.
Shapes: B images, C channels, H x W pixels, K classes, F features.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hardening.errors import ModelError
from hardening.models.architecture import Classifier
from hardening.threat import ThreatModel

RISING = (
    nn.ReLU,
    nn.LeakyReLU,
    nn.ELU,
    nn.Sigmoid,
    nn.Tanh,
    nn.Softplus,
    nn.MaxPool2d,
    nn.AvgPool2d,
    nn.AdaptiveAvgPool2d,
    nn.Flatten,
    nn.Identity,
)
"""Never fall where an input rises: bounds of what they give are what they give for the bounds."""

KNOWN = (*RISING, nn.Conv2d, nn.Linear, nn.BatchNorm2d)


class Reach(NamedTuple):
    """A tensor as it is, and the least and the largest that each of its numbers can be."""

    exact: Tensor
    lower: Tensor
    upper: Tensor


def chain(model: nn.Module) -> tuple[list[nn.Module], nn.Linear]:
    """The layers of `model` in their order, without the last one, and that one.

    Raises:
        ModelError: It is no chain of layers that intervals can be followed through.
    """
    net = model.net if isinstance(model, Classifier) else model
    layers = _flat(net)
    for layer in layers:
        if not isinstance(layer, KNOWN):
            raise ModelError(
                f"interval_training: got a {type(layer).__name__}, expected a chain of Conv2d, "
                "Linear, BatchNorm2d, pooling and ReLU (small_cnn, say): use adversarial_training"
            )
    last = layers[-1] if layers else None
    if not isinstance(last, nn.Linear):
        raise ModelError(
            f"interval_training: got a network that ends in {type(last).__name__}, expected a "
            "Linear layer: use adversarial_training"
        )
    return layers[:-1], last


def reached(model: nn.Module, x: Tensor, threat: ThreatModel) -> list[Reach]:
    """What reaches each layer of `model` from the box of half-width eps around images `x`.

    Args:
        x: Images, (B, C, H, W). The box is cut by the range of pixels.

    Returns:
        The normalised images first, what reaches the last layer at the end.
    """
    layers, _ = chain(model)
    box = ThreatModel(norm="linf", eps=threat.eps)
    now = Reach(x, *(box.project(x, torch.full_like(x, end)) for end in (0.0, 1.0)))
    if isinstance(model, Classifier):
        now = Reach(*((part - model.mean) / model.std for part in now))
    states = [now]
    for layer in layers:
        states.append(_through(layer, states[-1]))
    return states


def differences(last: nn.Linear, now: Reach) -> Tensor:
    """Lower bounds (B, K, K) of logit y - logit k; as one: the last layer is elided."""
    centre, radius = (now.upper + now.lower) / 2, (now.upper - now.lower) / 2
    apart = last.weight[:, None] - last.weight
    middle: Tensor = last(centre)
    slack = torch.einsum("ykf,bf->byk", apart.abs(), radius)
    return middle[:, :, None] - middle[:, None] - slack


def _flat(net: nn.Module) -> list[nn.Module]:
    if not isinstance(net, nn.Sequential):
        return [net]
    return [layer for part in net for layer in _flat(part)]


def _through(layer: nn.Module, now: Reach) -> Reach:
    exact = layer(now.exact)
    if isinstance(layer, RISING):
        return Reach(exact, layer(now.lower), layer(now.upper))
    centre, radius = (now.upper + now.lower) / 2, (now.upper - now.lower) / 2
    if isinstance(layer, nn.Conv2d):
        middle = layer(centre)
        spread = F.conv2d(
            radius,
            layer.weight.abs(),
            None,
            layer.stride,
            layer.padding,
            layer.dilation,
            layer.groups,
        )
    elif isinstance(layer, nn.Linear):
        middle, spread = layer(centre), F.linear(radius, layer.weight.abs())
    else:
        assert isinstance(layer, nn.BatchNorm2d)
        factor, shift = normalisation(layer, now.exact)
        middle, spread = centre * factor + shift, radius * factor.abs()
    return Reach(exact, middle - spread, middle + spread)


def normalisation(layer: nn.BatchNorm2d, exact: Tensor) -> tuple[Tensor, Tensor]:
    """Factor and shift of a batch normalisation, (C, 1, 1) each.

    By the statistics of the images as they are, in training, too: those of a box are not met.
    """
    if layer.training or layer.running_mean is None or layer.running_var is None:
        mean, variance = exact.mean((0, 2, 3)), exact.var((0, 2, 3), unbiased=False)
    else:
        mean, variance = layer.running_mean, layer.running_var
    factor = (variance + layer.eps).rsqrt()
    if layer.weight is not None:
        factor = factor * layer.weight
    shift = -mean * factor if layer.bias is None else layer.bias - mean * factor
    return factor.view(-1, 1, 1), shift.view(-1, 1, 1)
