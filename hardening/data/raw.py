"""A dataset as it was read, before it is checked and split, and what a loader is.

Shapes: N images, K classes.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from torch import Tensor

from hardening.data.types import Labelled


@dataclass(frozen=True)
class RawData:
    """What a loader found: `test` is None when the dataset has no test split of its own.

    `groups` (N_train,) int64 ties training images together that a split must keep on one side,
    such as several photographs of one object.
    """

    train: Labelled
    test: Labelled | None
    classes: tuple[str, ...]
    groups: Tensor | None


class Loader(Protocol):
    """Reads a dataset from the local disk; its keyword-only parameters are bound already."""

    def __call__(self, root: Path, /) -> RawData:
        """Read the dataset at `root`, or raise a DataError that names what is wrong with it."""
