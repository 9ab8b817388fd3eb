"""A network by name, and the classifier that puts the data's normalisation in front of it.

Shapes: B images, C channels, H x W pixels, K classes.
"""

from typing import Self

import torch
from pydantic import Field, JsonValue, model_validator
from torch import Tensor, nn

from hardening.models import MODELS
from hardening.randomness import seeded
from hardening.spec import Record, Spec, bind


class Architecture(Record):
    """Everything about a classifier but its weights; `shape` is (C, H, W), of [0, 1] pixels."""

    name: str
    params: dict[str, JsonValue] = Field(default_factory=dict)
    shape: tuple[int, int, int]
    classes: int = Field(ge=2)
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @model_validator(mode="after")
    def _one_number_per_channel(self) -> Self:
        for field, values in (("mean", self.mean), ("std", self.std)):
            if len(values) != self.shape[0]:
                raise ValueError(
                    f"got {len(values)} numbers as {field}, expected one for each of the "
                    f"{self.shape[0]} channels"
                )
        if min(self.std) <= 0:
            raise ValueError(f"got std {self.std}, expected numbers above 0")
        return self


class Classifier(nn.Module):
    """Images (B, C, H, W) in [0, 1] to logits (B, K): normalisation, then the network."""

    mean: Tensor
    std: Tensor

    def __init__(self, architecture: Architecture, net: nn.Module) -> None:
        super().__init__()
        self.architecture = architecture
        self.net = net
        channels = (architecture.shape[0], 1, 1)
        # Not persistent: they belong to the architecture, and weights from elsewhere lack them.
        self.register_buffer("mean", torch.tensor(architecture.mean).view(channels), False)
        self.register_buffer("std", torch.tensor(architecture.std).view(channels), False)

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, C, H, W) in [0, 1] to logits (B, K)."""
        logits: Tensor = self.net((x - self.mean) / self.std)
        return logits


def build(architecture: Architecture, seed: int) -> Classifier:
    """A classifier whose initial weights depend on `seed` alone.

    Raises:
        ConfigError: The name or a hyper-parameter is unknown or does not fit the images.
    """
    network = bind(MODELS, Spec(name=architecture.name, params=architecture.params), "model")
    with seeded(seed):
        net = network(architecture.shape, architecture.classes)
    return Classifier(architecture, net)
