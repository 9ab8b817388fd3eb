"""torchvision's classification sets by name: downloaded into a folder, read into one tensor.

Shapes: N images, C channels, H x W pixels, K classes. Downloads, their digests and their progress
bars are torchvision's own; nothing is downloaded that is there already.
"""

import lzma
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Mapping
from http.client import HTTPException
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple
from urllib.error import URLError

import torch
from PIL import Image
from pydantic import Field
from torch import Tensor

from hardening.data.images import pixels
from hardening.data.raw import Loader, RawData
from hardening.data.types import Labelled
from hardening.errors import DataError

Split = Mapping[str, Any]
Size = Annotated[int, Field(ge=1, le=1024)]
Subset = Literal["balanced", "byclass", "bymerge", "letters", "digits", "mnist"]

NETWORK = (URLError, HTTPException, ConnectionError, TimeoutError)
NOT_FOUND = ("Error downloading", "not found", "To download")
"""What torchvision's plain RuntimeErrors say when it is the download that failed."""

FAILURES = (
    *(OSError, RuntimeError, ValueError, TypeError, LookupError, AssertionError, EOFError),
    *(HTTPException, zlib.error, lzma.LZMAError, zipfile.BadZipFile, tarfile.TarError),
    Image.DecompressionBombError,
)


class Source(NamedTuple):
    """A torchvision class, and the arguments that make its training and its test split."""

    name: str
    train: Split
    test: Split | None


FLAG: tuple[Split, Split] = ({"train": True}, {"train": False})
WORD: tuple[Split, Split] = ({"split": "train"}, {"split": "test"})

ARRAYS = {
    "mnist": Source("MNIST", *FLAG),
    "fashion_mnist": Source("FashionMNIST", *FLAG),
    "kmnist": Source("KMNIST", *FLAG),
    "qmnist": Source("QMNIST", *FLAG),
    "usps": Source("USPS", *FLAG),
    "cifar10": Source("CIFAR10", *FLAG),
    "cifar100": Source("CIFAR100", *FLAG),
    "svhn": Source("SVHN", *WORD),
    "stl10": Source("STL10", *WORD),
}
"""Sets whose images have one size, which torchvision keeps as one array."""

FILES = {
    "gtsrb": Source("GTSRB", *WORD),
    "eurosat": Source("EuroSAT", {}, None),
    "dtd": Source("DTD", *WORD),
    "flowers102": Source("Flowers102", *WORD),
    "food101": Source("Food101", *WORD),
    "fgvc_aircraft": Source("FGVCAircraft", {"split": "trainval"}, {"split": "test"}),
    "oxford_iiit_pet": Source("OxfordIIITPet", {"split": "trainval"}, {"split": "test"}),
    "imagenette": Source("Imagenette", *({"split": s, "size": "160px"} for s in ("train", "val"))),
}
"""Sets of colour photographs of many sizes, one file each."""


def emnist(root: Path, /, *, split: Subset = "balanced") -> RawData:
    """Handwritten letters and digits (EMNIST), 28 x 28, axes swapped as in the original files.

    Args:
        split: Which of the six published subsets.

    Raises:
        DataError: The files cannot be downloaded or read.
    """
    train, test = ({"split": split, **which} for which in FLAG)
    return _load("emnist", Source("EMNIST", train, test), root, _from_array)


def _array_loader(name: str, source: Source) -> Loader:
    def load(root: Path, /) -> RawData:
        return _load(name, source, root, _from_array)

    return _named(load, name, f"torchvision's {source.name}, downloaded into `root`.")


def _file_loader(name: str, source: Source) -> Loader:
    def load(root: Path, /, *, size: Size = 32) -> RawData:
        return _load(name, source, root, lambda dataset: _from_files(dataset, size))

    does = f"torchvision's {source.name}, downloaded into `root`, every image resized."
    return _named(load, name, f"{does}\n\nArgs:\n    size: Height and width in pixels.\n")


def _named(load: Callable[..., RawData], name: str, doc: str) -> Loader:
    load.__name__ = name
    load.__doc__ = doc
    return load


def _load(name: str, source: Source, root: Path, read: Callable[[Any], Labelled]) -> RawData:
    # Importing torchvision takes seconds, which users of other datasets should not pay.
    make = getattr(import_module("torchvision.datasets"), source.name)
    try:
        dataset = make(root=root, download=True, **source.train)
        held_out = None if source.test is None else make(root=root, download=True, **source.test)
        train = read(dataset)
        test = None if held_out is None else read(held_out)
    except FAILURES as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        verb = "downloaded" if _is_download(error) else "read"
        raise DataError(f"{name} in {root}: could not be {verb} ({reason})") from error
    classes = _classes(dataset, train.labels)
    if test is not None and _classes(held_out, test.labels) != classes:
        raise DataError(f"{name} in {root}: got other classes in the test split than in training")
    return RawData(train, test, classes, _signs(dataset) if name == "gtsrb" else None)


def _is_download(error: BaseException) -> bool:
    text = str(error)
    missing = isinstance(error, RuntimeError) and any(words in text for words in NOT_FOUND)
    return missing or isinstance(error, NETWORK)


def _from_array(dataset: Any) -> Labelled:
    images = torch.as_tensor(dataset.data)
    if images.ndim == 3:
        images = images.unsqueeze(1)
    elif images.shape[3] == 3:
        images = images.permute(0, 3, 1, 2)
    found = dataset.targets if hasattr(dataset, "targets") else dataset.labels
    labels = torch.as_tensor(found).long()
    # QMNIST tells the writer and more beside the class.
    labels = labels if labels.ndim == 1 else labels[:, 0]
    return Labelled(images.contiguous(), labels - _unused(dataset))


def _from_files(dataset: Any, size: int) -> Labelled:
    images = torch.empty(len(dataset), 3, size, size, dtype=torch.uint8)
    labels = torch.empty(len(dataset), dtype=torch.int64)
    for index in range(len(dataset)):
        image, label = dataset[index]
        images[index], labels[index] = pixels(image, size, channels=3), int(label)
    return Labelled(images, labels)


def _unused(dataset: Any) -> int:
    """How many classes at the start have no images: EMNIST's letters count from 1."""
    return int(list(getattr(dataset, "classes", []))[:1] == ["N/A"])


def _classes(dataset: Any, labels: Tensor) -> tuple[str, ...]:
    names = getattr(dataset, "classes", range(1 + int(labels.max())))
    # Imagenette gives each class several names.
    firsts = [name[0] if isinstance(name, tuple) else str(name) for name in names]
    return tuple(firsts[_unused(dataset) :])


def _signs(dataset: Any) -> Tensor:
    """The physical sign of each GTSRB training image, (N,): its 30 frames are near-duplicates."""
    keys = [(label, Path(path).name.split("_")[0]) for path, label in dataset._samples]
    number = {key: index for index, key in enumerate(sorted(set(keys)))}
    return torch.tensor([number[key] for key in keys])


TORCHVISION: dict[str, Loader] = {
    **{name: _array_loader(name, source) for name, source in ARRAYS.items()},
    "emnist": emnist,
    **{name: _file_loader(name, source) for name, source in FILES.items()},
}
