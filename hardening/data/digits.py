"""The handwritten digits that scikit-learn ships: 1,797 images of 8 x 8 pixels, no download."""

from importlib import import_module
from pathlib import Path

import torch

from hardening.data.raw import RawData
from hardening.data.types import Labelled

INK = 16
"""Full ink in scikit-learn's files, which count inked dots per pixel."""


def digits(root: Path, /) -> RawData:  # noqa: ARG001
    """All digits as (1797, 1, 8, 8) uint8, in scikit-learn's order; `root` is not read."""
    # Importing scikit-learn takes seconds, which users of other datasets should not pay.
    found = import_module("sklearn.datasets").load_digits()
    images = torch.from_numpy(found.images).unsqueeze(1) * (255 / INK)
    labels = torch.from_numpy(found.target).long()
    classes = tuple(str(name) for name in found.target_names)
    return RawData(Labelled(images.round().to(torch.uint8), labels), None, classes, None)
