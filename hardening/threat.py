"""What the adversary may do.

Shapes: B images, C channels, H x W pixels, K classes.
Inputs are float32 in [0, 1]; a model maps (B, C, H, W) to logits (B, K) and normalises inside
itself, so `eps` is always in pixel units. What a norm means is in `hardening/balls.py` alone.
"""

from collections.abc import Callable, Sequence
from fractions import Fraction
from math import prod
from typing import Annotated

import torch
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from torch import Tensor

from hardening.balls import BALLS, Ball, Norm, per_image

__all__ = ["Eps", "Model", "Norm", "Number", "ThreatModel", "per_image"]

Model = Callable[[Tensor], Tensor]
"""Maps images (B, C, H, W) in [0, 1] to logits (B, K)."""


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

    def unbounded(self, shape: Sequence[int]) -> "ThreatModel":
        """The same geometry around images of `shape` (C, H, W) without any bound but the range."""
        d = prod(shape)
        eps = {"linf": 1.0, "l2": d**0.5, "l1": float(d), "l0": float(d)}[self.norm]
        return ThreatModel(norm=self.norm, eps=eps)

    def reach(self, d: int) -> float:
        """L2 radius of the smallest ball that holds the set around any image of `d` numbers."""
        farthest = {
            "linf": self.eps * d**0.5,
            "l2": self.eps,
            "l1": self.eps,
            "l0": self.eps**0.5,
        }
        return float(min(farthest[self.norm], d**0.5))

    def project(self, x: Tensor, x_adv: Tensor) -> Tensor:
        """Move `x_adv` (B, ...) into the set around `x`; points inside stay, bit for bit."""
        return self._ball.project(x, x_adv, self.eps)

    def ascend(self, gradient: Tensor) -> Tensor:
        """A unit step of steep ascent for this norm, (B, ...); zero where `gradient` is.

        The steepest one for Linf and L2. For L1 that would be a single number, so the step is
        spread over the steepest few percent; for L0 it is the L2 step, and `project` chooses.
        """
        return self._ball.ascend(gradient)

    def summit(self, x: Tensor, gradient: Tensor) -> Tensor:
        """The point of the set where a loss with this constant gradient is highest, (B, ...).

        Exact with the pixel range for Linf, L1 and L0; for L2 the range cuts the best of the ball.
        """
        return self._ball.summit(x, gradient, self.eps)

    def sample(self, x: Tensor, rng: torch.Generator) -> Tensor:
        """A member of the set around `x`, uniform in the ball before the pixel range cuts it."""
        return self.project(x, self._ball.sample(x, self.eps, rng))

    def distance(self, x: Tensor, x_adv: Tensor) -> Tensor:
        """Size of each perturbation in this norm, (B,): pixel units, numbers changed for L0."""
        return self._ball.size(x_adv - x)

    def contains(self, x: Tensor, x_adv: Tensor) -> Tensor:
        """Whether each image lies in the set, (B,) of bool.

        Linf is checked bit for bit against the float32 bounds that `project` uses, the other norms
        to `SLACK`. NaN lies nowhere.
        """
        return self._ball.contains(x, x_adv, self.eps)

    @property
    def _ball(self) -> Ball:
        return BALLS[self.norm]
