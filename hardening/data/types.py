"""Labelled images, and the two types that keep the test split away from training.

Shapes: N images, C channels, H x W pixels, K classes.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor


@dataclass(frozen=True)
class Labelled:
    """Images (N, C, H, W), uint8 in 0..255 or float32 in [0, 1], and labels (N,) int64."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: Tensor) -> "Labelled":
        """The chosen images, (n,) indices, in that order."""
        return Labelled(self.images[indices], self.labels[indices])

    def first(self, count: int) -> "Labelled":
        """The first `count` images, or all when there are fewer."""
        return Labelled(self.images[:count], self.labels[:count])

    def floats(self) -> Tensor:
        """All images as float32 in [0, 1]."""
        return self.images.float() / 255 if self.images.dtype == torch.uint8 else self.images

    def batches(self, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Float images and labels in order, `size` at a time; the last batch may be smaller."""
        for start in range(0, len(self), size):
            part = Labelled(self.images[start : start + size], self.labels[start : start + size])
            yield part.floats(), part.labels


@dataclass(frozen=True)
class TrainingData:
    """What training and model selection may see."""

    train: Labelled
    validation: Labelled
    classes: tuple[str, ...]

    def to_bytes(self) -> bytes:
        """As one safetensors file."""
        return _pack({"train": self.train, "validation": self.validation}, self.classes)

    @classmethod
    def from_bytes(cls, data: bytes) -> "TrainingData":
        """Inverse of `to_bytes`."""
        parts, classes = _unpack(data)
        return cls(parts["train"], parts["validation"], classes)


@dataclass(frozen=True)
class TestData:
    """What only the evaluation may see. No training function takes this type."""

    __test__ = False  # not a test class, whatever pytest thinks of the name

    test: Labelled
    classes: tuple[str, ...]

    def to_bytes(self) -> bytes:
        """As one safetensors file."""
        return _pack({"test": self.test}, self.classes)

    @classmethod
    def from_bytes(cls, data: bytes) -> "TestData":
        """Inverse of `to_bytes`."""
        parts, classes = _unpack(data)
        return cls(parts["test"], classes)


def _pack(parts: dict[str, Labelled], classes: tuple[str, ...]) -> bytes:
    tensors = {}
    for name, part in parts.items():
        tensors[f"{name}.images"] = part.images.contiguous()
        tensors[f"{name}.labels"] = part.labels.contiguous()
    return save_tensors(tensors, {"classes": json.dumps(classes)})


def _unpack(data: bytes) -> tuple[dict[str, Labelled], tuple[str, ...]]:
    tensors = load_tensors(data)
    names = {key.split(".")[0] for key in tensors}
    parts = {n: Labelled(tensors[f"{n}.images"], tensors[f"{n}.labels"]) for n in names}
    return parts, tuple(json.loads(metadata(data)["classes"]))


def metadata(data: bytes) -> dict[str, str]:
    """The text fields in the header of a safetensors file."""
    size = int.from_bytes(data[:8], "little")
    header: dict[str, dict[str, str]] = json.loads(data[8 : 8 + size])
    return header.get("__metadata__", {})
