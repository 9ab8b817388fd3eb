"""Digests of what lies on a disk: of a file's bytes, of a folder's names and contents."""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from hardening.errors import DataError


def content_sha256(path: Path) -> str:
    """The digest of a file or of a folder, whichever `path` is."""
    return tree_sha256(path) if path.is_dir() else file_sha256(path)


def file_sha256(path: Path) -> str:
    """The sha256 of a file's bytes, hexadecimal.

    Raises:
        DataError: It is not a regular file, or cannot be read.
    """
    if not path.is_file():
        raise DataError(f"{path}: got {_kind(path)}, expected a regular file")
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error


def tree_sha256(folder: Path) -> str:
    """One sha256 over the relative names and the contents of all files below `folder`.

    Links are followed, as a dataset would; order, times and permissions do not matter.

    Raises:
        DataError: Something below is not a regular file, cannot be read, or links to its parent.
    """
    files = sorted((path.relative_to(folder).as_posix(), path) for path in _files(folder))
    whole = hashlib.sha256()
    for name, path in files:
        # A name cannot hold a zero byte, and a digest has a fixed length: no two trees collide.
        whole.update(os.fsencode(name) + b"\0" + bytes.fromhex(file_sha256(path)))
    return whole.hexdigest()


def _files(folder: Path) -> Iterator[Path]:
    for root, _, names in os.walk(folder, followlinks=True, onerror=_unreadable):
        here = Path(root).absolute()
        if here.is_symlink() and here.resolve() in [above.resolve() for above in here.parents]:
            raise DataError(f"{root}: links to a folder above it, expected a tree")
        for name in names:
            yield Path(root, name)


def _unreadable(error: OSError) -> None:
    raise DataError(f"{error.filename}: cannot be read ({error.strerror})") from error


def _kind(path: Path) -> str:
    if not path.exists():
        return "nothing"
    return "a folder" if path.is_dir() else "a device, pipe or socket"
