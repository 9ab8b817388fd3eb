"""Datasets as image files in one folder per class.

Shapes: N images, C channels (1 or 3), S x S pixels.
"""

from pathlib import Path
from typing import Annotated

import torch
from pydantic import Field

from hardening.data.images import SUFFIXES, Channels, read_image
from hardening.data.raw import RawData
from hardening.data.types import Labelled
from hardening.errors import DataError

SPLITS = {"train", "test"}


def folder(
    root: Path, /, *, size: Annotated[int, Field(ge=1, le=1024)] = 32, channels: Channels = 3
) -> RawData:
    """Read `train/CLASS/*` and `test/CLASS/*`, or `CLASS/*` and no test split, in name order.

    A class folder is searched to the bottom; files that are no images, and hidden folders, do not
    count.

    Args:
        size: Height and width in pixels; every image is resized to it.
        channels: 1 for grey, 3 for colour.

    Raises:
        DataError: A folder or an image in it cannot be used; the message names it.
    """
    found = _subfolders(root)
    if "train" not in found or not _subfolders(root / "train"):
        samples = _samples(root, found)
        return RawData(_read(samples, size, channels), None, tuple(found), None)
    if set(found) - SPLITS:
        raise DataError(
            f"{root}: got folders {', '.join(found)}, expected train and test, or one per class"
        )
    classes = _subfolders(root / "train")
    train = _read(_samples(root / "train", classes), size, channels)
    if "test" not in found:
        return RawData(train, None, tuple(classes), None)
    test = _read(_samples(root / "test", classes), size, channels)
    return RawData(train, test, tuple(classes), None)


def _subfolders(root: Path) -> list[str]:
    if not root.is_dir():
        raise DataError(f"{root}: no such folder, expected one with a folder per class")
    return sorted(p.name for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))


def _samples(root: Path, classes: list[str]) -> list[tuple[Path, int]]:
    """Image files with their labels, class by class; a test split may lack a class."""
    samples = []
    for name in _subfolders(root):
        if name not in classes:
            raise DataError(
                f"{root / name}: got a class without training images, "
                f"expected one of {', '.join(classes)}"
            )
        files = sorted(p for p in (root / name).rglob("*") if _is_image(p, root))
        if not files:
            kinds = ", ".join(sorted(SUFFIXES))
            raise DataError(f"{root / name}: got no images, expected files ending in {kinds}")
        samples += [(path, classes.index(name)) for path in files]
    if not samples:
        raise DataError(f"{root}: got no folders in it, expected one per class")
    return samples


def _is_image(path: Path, root: Path) -> bool:
    hidden = any(part.startswith(".") for part in path.relative_to(root).parts)
    return path.suffix.lower() in SUFFIXES and not hidden and path.is_file()


def _read(samples: list[tuple[Path, int]], size: int, channels: Channels) -> Labelled:
    images = torch.empty(len(samples), channels, size, size, dtype=torch.uint8)
    for index, (path, _) in enumerate(samples):
        images[index] = read_image(path, size, channels)
    return Labelled(images, torch.tensor([label for _, label in samples]))
