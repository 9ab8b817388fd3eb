"""What a survey is: accuracy where no small norm binds, reported beside the headline, never in it.

Shapes: B images (B, C, H, W) in [0, 1] with labels (B,).
"""

from typing import Protocol

import torch
from torch import Tensor

from attacks.gradient import look
from attacks.losses import margin
from hardening.attack import stands
from hardening.threat import Model


class Survey(Protocol):
    """Anything that asks how a model does on images changed as no threat model of ours allows.

    An image that is wrong as it came stays wrong under every condition, also where a change
    happens to make it right.
    """

    def __call__(
        self, model: Model, x: Tensor, y: Tensor, rng: torch.Generator, /
    ) -> dict[str, Tensor]:
        """Per named condition, whether each image is still classified as `y`, (B,) of bool."""


@torch.no_grad()
def classified(model: Model, points: Tensor, y: Tensor) -> Tensor:
    """Whether the model says `y` at each point, (B,) of bool; one forward pass."""
    logits, _ = look(model, points, margin, y)
    return stands(model, points, logits, y)


def check_images(survey: str, x: Tensor) -> None:
    """Refuse inputs that have no rows and columns.

    Raises:
        ValueError: They are not (B, C, H, W).
    """
    if x.ndim != 4:
        raise ValueError(f"{survey}: got inputs of shape {tuple(x.shape)}, expected (B, C, H, W)")
