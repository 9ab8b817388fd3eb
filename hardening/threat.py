"""What the adversary may do.

Shapes: B images, C channels, H x W pixels, K classes.
Inputs are float32 in [0, 1]; a model maps (B, C, H, W) to logits (B, K) and normalises inside
itself, so `eps` is always in pixel units. This is the only module that branches on the norm.
"""

from collections.abc import Callable
from fractions import Fraction
from typing import Annotated, Literal

import torch
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from torch import Tensor

Model = Callable[[Tensor], Tensor]
"""Maps images (B, C, H, W) in [0, 1] to logits (B, K)."""

Norm = Literal["linf", "l2"]

L2_ROUNDING = 1e-6
"""Relative excess over `eps` that float32 rounding of an L2 projection may leave."""


def fraction(value: object) -> object:
    """Let a configuration say `8/255` instead of 0.03137."""
    if not isinstance(value, str):
        return value
    try:
        return float(Fraction(value.replace(" ", "")))
    except (ValueError, ZeroDivisionError) as error:
        raise ValueError(f"got {value!r}, expected a number or a fraction such as 8/255") from error


Number = Annotated[float, BeforeValidator(fraction, json_schema_input_type=float | str)]
Eps = Annotated[Number, Field(gt=0, allow_inf_nan=False)]


class ThreatModel(BaseModel):
    """The set of inputs the adversary may submit instead of `x`: a ball cut by the pixel range."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    norm: Norm = "linf"
    eps: Eps

    def __str__(self) -> str:
        return f"{self.norm} eps {self.eps:.4g}"

    def scaled(self, factor: float) -> "ThreatModel":
        """The same geometry with `factor` times the radius."""
        return ThreatModel(norm=self.norm, eps=self.eps * factor)

    def project(self, x: Tensor, x_adv: Tensor) -> Tensor:
        """Move `x_adv` (B, ...) into the set around `x`; points inside stay, bit for bit."""
        if self.norm == "linf":
            lower, upper = self._box(x)
            return torch.minimum(torch.maximum(x_adv, lower), upper)
        x_adv = x_adv.clamp(0, 1)
        delta = x_adv - x
        size = torch.linalg.vector_norm(delta.flatten(1), dim=1, dtype=torch.float64)
        # Rounding may lengthen delta: by a few parts in 2^24, and by 2^-25 a pixel in x + delta.
        slack = self.eps * 2**-22 + 2**-25 * x.shape[1:].numel() ** 0.5
        radius = max(self.eps - slack, 0.0)
        factor = (radius / size.clamp(min=1e-12)).to(x.dtype)
        shrunk = (x + delta * per_image(factor, x)).clamp(0, 1)
        return torch.where(per_image(size > self.eps, x), shrunk, x_adv)

    def ascend(self, gradient: Tensor) -> Tensor:
        """The unit step of steepest ascent for this norm, (B, ...); zero where `gradient` is."""
        if self.norm == "linf":
            return gradient.sign()
        # Scaled by its largest entry first: the square of a tiny gradient would underflow.
        peak = gradient.flatten(1).abs().amax(1)
        gradient = gradient / per_image(peak.clamp(min=torch.finfo(gradient.dtype).tiny), gradient)
        return gradient / per_image(_l2(gradient).clamp(min=1e-12), gradient)

    def sample(self, x: Tensor, rng: torch.Generator) -> Tensor:
        """A member of the set around `x`, uniform in the ball before the pixel range cuts it."""
        if self.norm == "linf":
            noise = 2 * uniform(x.shape, rng, x) - 1
        else:
            direction = torch.randn(x.shape, generator=rng, device=rng.device).to(x)
            radius = uniform((len(x),), rng, x) ** (1 / x.shape[1:].numel())
            noise = direction * per_image(radius / _l2(direction).clamp(min=1e-12), x)
        return self.project(x, x + self.eps * noise)

    def distance(self, x: Tensor, x_adv: Tensor) -> Tensor:
        """Size of each perturbation in this norm, (B,), pixel units."""
        delta = x_adv - x
        return delta.flatten(1).abs().amax(1) if self.norm == "linf" else _l2(delta)

    def contains(self, x: Tensor, x_adv: Tensor) -> Tensor:
        """Whether each image lies in the set, (B,) of bool.

        Linf is checked bit for bit against the float32 bounds that `project` uses, L2 to
        `L2_ROUNDING`. NaN lies nowhere.
        """
        if self.norm == "linf":
            lower, upper = self._box(x)
            return ((x_adv >= lower) & (x_adv <= upper)).flatten(1).all(1)
        in_range = ((x_adv >= 0) & (x_adv <= 1)).flatten(1).all(1)
        return in_range & (_l2(x_adv.double() - x.double()) <= self.eps * (1 + L2_ROUNDING))

    def _box(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return (x - self.eps).clamp(0, 1), (x + self.eps).clamp(0, 1)


def per_image(values: Tensor, like: Tensor) -> Tensor:
    """Reshape (B,) to (B, 1, ..., 1) so that it broadcasts over `like`."""
    return values.view(-1, *[1] * (like.ndim - 1))


def uniform(shape: tuple[int, ...], rng: torch.Generator, like: Tensor) -> Tensor:
    """Uniform numbers in [0, 1) drawn on the generator's device, placed where `like` is."""
    return torch.rand(shape, generator=rng, device=rng.device).to(like)


def _l2(delta: Tensor) -> Tensor:
    size: Tensor = torch.linalg.vector_norm(delta.flatten(1), dim=1)
    return size
