"""What a training is made of: the loss to minimise, and the options of the one loop.

Shapes: B images, C channels, H x W pixels.
"""

from collections.abc import Callable
from typing import Literal

from pydantic import Field
from torch import Tensor, nn

from defenses.augment import Augmentation
from hardening.spec import Record
from hardening.threat import ThreatModel

Loss = Callable[[nn.Module, Tensor, Tensor, ThreatModel | None], Tensor]
"""Maps model, images (B, C, H, W), labels (B,) and the threat at this step to a scalar."""

Constraint = Callable[[nn.Module], None]
"""Changes a model's weights in place."""


class Loop(Record):
    """How to train, whatever the loss."""

    epochs: int = Field(default=10, ge=1, description="passes over the training images")
    batch_size: int = Field(default=128, ge=2, description="images per optimizer step")
    learning_rate: float = Field(
        default=5e-3, gt=0, description="peak of the one-cycle schedule, reached after 30 % of it"
    )
    optimizer: Literal["sgd", "adamw"] = Field(
        default="adamw", description="sgd has momentum 0.9; its learning rate is about 20 x larger"
    )
    weight_decay: float = Field(default=5e-4, ge=0, description="shrinks weights at every step")
    ema: float = Field(
        default=0.99, ge=0, lt=1, description="decay of the averaged weights that are returned"
    )
    ramp: float = Field(
        default=0.4, ge=0, le=1, description="share of the steps in which eps grows from 0"
    )
    validation_images: int = Field(
        default=500, ge=1, description="most images that choose the best epoch"
    )
    augment: Augmentation = Field(
        default="none", description="shift = random crops, shift-flip = and mirror images"
    )
    replays: int = Field(default=1, ge=1, description="optimizer steps in a row on each batch")
    accumulate: int = Field(
        default=1, ge=1, description="parts of a batch that are in memory one after the other"
    )
    awp: float = Field(
        default=0,
        ge=0,
        le=1,
        description="adversarial perturbation of weights, in multiples of their size; 0.01 against "
        "robust overfitting, 0 = none; doubles the cost of a step",
    )
    anchor: float = Field(
        default=0,
        ge=0,
        description="weight of the divergence from the given model's outputs on clean images",
    )
    keep_clean: float | None = Field(
        default=None,
        gt=0,
        le=1,
        description="go back towards the given weights until clean validation accuracy is this",
    )

    def passes(self, step: float) -> float:
        """Backward passes for one training image, where a step of the loss alone costs `step`."""
        one = step * (2 if self.awp else 1) + (1 if self.anchor else 0)
        return self.epochs * self.replays * one
