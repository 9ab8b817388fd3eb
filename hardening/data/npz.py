"""Datasets in one NumPy .npz file.

Shapes: N images, C channels (1 or 3), H x W pixels, K classes.
"""

import difflib
import struct
import tokenize
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hardening.data.checks import refuse_bad_values
from hardening.data.raw import RawData
from hardening.data.types import Labelled
from hardening.errors import DataError

Arrays = dict[str, NDArray[Any]]

UNREADABLE = (
    *(OSError, ValueError, SyntaxError, EOFError, LookupError, MemoryError, RuntimeError),
    *(zipfile.BadZipFile, zlib.error, struct.error, tokenize.TokenError),
)
"""What NumPy and zipfile raise on damaged files."""


def npz(root: Path, /, *, groups: str = "", max_bytes: int = 8 << 30) -> RawData:
    """Read `train_images`, `train_labels` and, where present, `test_images`, `test_labels`.

    Images are uint8 in 0..255 or float in [0, 1], NHWC or NCHW (the axis of length 1 or 3 holds the
    channels) or NHW; labels are integers from 0. An optional array `classes` holds K names.

    Args:
        groups: Array that names a group for each training image; a split never cuts a group.
            Several arrays joined by + name a group together, e.g. train_labels+train_track
            when tracks are numbered anew in each class.
        max_bytes: Size of all arrays together, unpacked, above which the file is refused: a
            thousandth of it, well packed, could fill the memory.

    Raises:
        DataError: The file cannot be read, an array is missing, or is not what is said above.
    """
    arrays = _read(root, max_bytes)
    train = _part(root, arrays, "train")
    has_test = "test_images" in arrays or "test_labels" in arrays
    test = _part(root, arrays, "test") if has_test else None
    classes = _classes(root, arrays, train.labels)
    return RawData(train, test, classes, _groups(root, arrays, groups, len(train.images)))


def _read(path: Path, max_bytes: int) -> Arrays:
    """All arrays of the file; nothing in it is ever unpickled."""
    if not path.is_file():
        raise DataError(f"{path}: no such file, expected an .npz file")
    # NumPy takes a file that is not a zip archive for a pickle and says so; this is clearer.
    if not zipfile.is_zipfile(path):
        raise DataError(f"{path}: truncated or not an .npz file, expected NumPy's zipped arrays")
    name = "(any)"
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            # One damaged length makes the entries after it a comment: a test split would be gone
            # without a word. NumPy writes no comments.
            entries = zipfile.ZipFile(stream).infolist()
            if any(entry.comment for entry in entries):
                raise zipfile.BadZipFile("its table of contents is damaged")
            unpacked = sum(entry.file_size for entry in entries)
            if unpacked > max_bytes:
                raise DataError(
                    f"{path}: unpacks to {unpacked} B, expected at most {max_bytes} B (max_bytes)"
                )
            arrays = {}
            for name in file.files:
                arrays[name] = file[name]
    except UNREADABLE as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{path}: array {name} cannot be read: {reason}") from error
    return {name: array for name, array in arrays.items() if isinstance(array, np.ndarray)}


def _array(path: Path, arrays: Arrays, name: str) -> NDArray[Any]:
    if name not in arrays:
        near = difflib.get_close_matches(name, arrays, n=1)
        hint = f", did you mean {near[0]!r}?" if near else ""
        found = ", ".join(sorted(arrays)) or "no arrays"
        raise DataError(f"{path}: got {found}, expected an array {name!r}{hint}")
    return arrays[name]


def _part(path: Path, arrays: Arrays, split: str) -> Labelled:
    images, labels = f"{split}_images", f"{split}_labels"
    return Labelled(
        _images(f"{path}: {images}", _array(path, arrays, images)),
        _integers(f"{path}: {labels}", _array(path, arrays, labels)),
    )


def _images(where: str, array: NDArray[Any]) -> Tensor:
    """To (N, C, H, W), uint8 or float32."""
    if array.dtype != np.uint8 and array.dtype.kind != "f":
        raise DataError(f"{where}: got {array.dtype}, expected uint8 in 0..255 or float in [0, 1]")
    if array.ndim == 3:
        array = array[:, None]
    if array.ndim != 4:
        raise DataError(f"{where}: got shape {array.shape}, expected (N, H, W, C) or (N, C, H, W)")
    first, last = array.shape[1] in {1, 3}, array.shape[3] in {1, 3}
    if first == last:
        problem = "could both be" if first else "are both not"
        raise DataError(
            f"{where}: got shape {array.shape}, whose axes 1 and 3 {problem} 1 or 3 channels, "
            f"expected (N, H, W, C) or (N, C, H, W)"
        )
    native = array.astype(np.uint8 if array.dtype == np.uint8 else np.float32, copy=False)
    images = torch.from_numpy(np.ascontiguousarray(native if first else np.moveaxis(native, 3, 1)))
    refuse_bad_values(where, images)
    return images


def _integers(where: str, array: NDArray[Any]) -> Tensor:
    if array.dtype.kind not in "iu" or array.ndim != 1:
        raise DataError(
            f"{where}: got {array.dtype} of shape {array.shape}, expected integers of shape (N,)"
        )
    return torch.from_numpy(array.astype(np.int64))


def _classes(path: Path, arrays: Arrays, labels: Tensor) -> tuple[str, ...]:
    if "classes" in arrays:
        return tuple(str(name) for name in arrays["classes"].ravel())
    count = 1 + int(labels.max()) if len(labels) else 0
    # Were there more classes than images, some class would have none; also, one stray label
    # must not make us name a billion classes.
    if count > len(labels):
        raise DataError(
            f"{path}: train_labels: got labels up to {count - 1} for {len(labels)} images, "
            f"expected 0..K-1 with every class present"
        )
    return tuple(str(k) for k in range(count))


def _groups(path: Path, arrays: Arrays, names: str, images: int) -> Tensor | None:
    if not names:
        return None
    columns = []
    for name in (part.strip() for part in names.split("+")):
        column = _integers(f"{path}: {name}", _array(path, arrays, name))
        if len(column) != images:
            raise DataError(f"{path}: {name}: got {len(column)} groups, expected {images}")
        columns.append(column)
    rows = np.stack(columns, 1)
    return torch.from_numpy(np.unique(rows, axis=0, return_inverse=True)[1].reshape(images))
