"""CROWN's linear bounds of logit differences, from the intervals of IBP, with gradients.

Zhang et al. 2018, https://arxiv.org/abs/1811.00866, as CROWN-IBP uses them,
https://arxiv.org/abs/1906.06316: a difference of logits is followed backwards to the images as a
linear function that is nowhere above it. Shapes: B images, K classes, F features.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from defenses.bounds import Reach, chain, normalisation
from hardening.errors import ModelError

LINEAR = (
    nn.Conv2d,
    nn.Linear,
    nn.BatchNorm2d,
    nn.AvgPool2d,
    nn.AdaptiveAvgPool2d,
    nn.Flatten,
    nn.Identity,
)


def linear_chain(model: nn.Module) -> None:
    """Make sure that `model` is a chain of linear layers and ReLU.

    Raises:
        ModelError: It is not.
    """
    for layer in chain(model)[0]:
        if not isinstance(layer, (nn.ReLU, *LINEAR)):
            raise ModelError(
                f"interval_training: got a {type(layer).__name__} with bounds: crown, expected "
                "linear layers, average pooling and ReLU: use bounds: interval"
            )


def margins(model: nn.Module, states: Sequence[Reach], y: Tensor) -> Tensor:
    """Lower bounds (B, K) of how far the logit of label `y` is above each; 0 at itself.

    Args:
        model: A chain of linear layers and ReLU.
        states: What reaches each of its layers, from `defenses.bounds.reached`.
        y: Labels, (B,).
    """
    layers, last = chain(model)
    slopes = last.weight[y][:, None] - last.weight  # (B, K, F)
    rest = last.bias[y][:, None] - last.bias if last.bias is not None else slopes.new_zeros(())
    for layer, now in zip(reversed(layers), reversed(states[:-1]), strict=True):
        slopes, added = _back(layer, now, slopes)
        rest = rest + added
    box = states[0]
    centre, radius = (box.upper + box.lower) / 2, (box.upper - box.lower) / 2
    return rest + _dot(slopes, centre) - _dot(slopes.abs(), radius)


def _back(layer: nn.Module, now: Reach, slopes: Tensor) -> tuple[Tensor, Tensor]:
    """From a function of what `layer` gives, (B, K, ...), to one of what it takes, and a rest."""
    if isinstance(layer, nn.ReLU):
        return _relaxed(now, slopes)
    if isinstance(layer, nn.BatchNorm2d):
        factor, shift = normalisation(layer, now.exact)
        return slopes * factor, _dot(slopes, shift.expand_as(now.exact))
    # The gradient of a linear layer is its transpose, whatever its strides and groups.
    images, classes = slopes.shape[:2]
    zero = now.exact.new_zeros(images * classes, *now.exact.shape[1:]).requires_grad_()
    with torch.enable_grad():
        given = layer(zero)
        flat = slopes.reshape(given.shape)
        (taken,) = torch.autograd.grad(given, zero, flat, create_graph=True)
    added = (given * flat).flatten(1).sum(1)
    return taken.unflatten(0, (images, classes)), added.unflatten(0, (images, classes))


def _relaxed(now: Reach, slopes: Tensor) -> tuple[Tensor, Tensor]:
    """ReLU between two lines: the chord above, and 0 or the identity below, what is nearer."""
    lower, upper = now.lower, now.upper
    crossing = (lower < 0) & (upper > 0)
    width = torch.where(crossing, upper - lower, 1)
    chord = torch.where(crossing, upper / width, (lower >= 0).to(upper.dtype))
    offset = torch.where(crossing, -chord * lower, 0)
    below = torch.where(crossing, (upper > -lower).to(upper.dtype), chord)
    rising, falling = slopes.clamp(min=0), slopes.clamp(max=0)
    return rising * below[:, None] + falling * chord[:, None], _dot(falling, offset)


def _dot(slopes: Tensor, values: Tensor) -> Tensor:
    """Sums over features: (B, K, ...) and (B, ...) to (B, K)."""
    return (slopes * values[:, None]).flatten(2).sum(2)
