"""A local folder as the ground of a store: atomic, durable writes of named bytes."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import time
from uuid import uuid4

from hardening.errors import ConfigError, ServiceError

STALE = 24 * 3600
"""Seconds after which a temporary file belongs to a writer that was killed."""


class Folder:
    """Named bytes in files under `root`; names are relative paths that the store made."""

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        self.uri = self.root.as_uri()
        self._temporary = self.root / "tmp"
        probe = self._temporary / f"probe-{uuid4().hex}"
        try:
            self._temporary.mkdir(parents=True, exist_ok=True)
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise ConfigError(
                f"store folder {self.root}: cannot be written ({error.strerror}), "
                "expected a folder that this user may write to"
            ) from error
        self._sweep()

    def read(self, name: str) -> bytes | None:
        """The bytes of `name`, or None when there are none."""
        with self._naming("read", name):
            try:
                return (self.root / name).read_bytes()
            except FileNotFoundError:
                return None

    def size(self, name: str) -> int | None:
        """How many bytes `name` has, or None when there are none."""
        with self._naming("read", name):
            try:
                return (self.root / name).stat().st_size
            except FileNotFoundError:
                return None

    def holds(self, name: str, data: bytes) -> bool:
        """Whether `name` holds exactly `data`."""
        return self.size(name) == len(data) and self.read(name) == data

    def write(self, name: str, data: bytes) -> None:
        """Make `name` hold `data`: a reader or a crash sees all of it or nothing of it."""
        path, temporary = self.root / name, self._temporary / uuid4().hex
        with self._naming("written", name):
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                _write_durably(temporary, data)
                temporary.replace(path)
            finally:
                temporary.unlink(missing_ok=True)
            _fsync_folder(path.parent)

    def create(self, name: str, data: bytes) -> bool:
        """Make `name` hold `data` if nobody else did; whether it was us."""
        path, temporary = self.root / name, self._temporary / uuid4().hex
        with self._naming("written", name):
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                _write_durably(temporary, data)
                os.link(temporary, path)  # unlike a rename it fails where the name is taken
            except FileExistsError:
                return False
            finally:
                temporary.unlink(missing_ok=True)
            _fsync_folder(path.parent)
            return True

    def set_aside(self, name: str) -> None:
        """Move `name` to `corrupt/`, where nothing reads it."""
        path = self.root / name
        with self._naming("moved aside", name):
            aside = self.root / "corrupt" / f"{path.name}.{uuid4().hex[:8]}"
            aside.parent.mkdir(exist_ok=True)
            try:
                path.rename(aside)
            except FileNotFoundError:
                return  # another reader was quicker

    def delete(self, name: str) -> None:
        """Remove `name` if it is there."""
        with self._naming("deleted", name):
            (self.root / name).unlink(missing_ok=True)

    @contextmanager
    def _naming(self, verb: str, name: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            path = self.root / name
            raise ServiceError(f"store file {path}: cannot be {verb} ({error.strerror})") from error

    def _sweep(self) -> None:
        for path in self._temporary.iterdir():
            try:
                if time() - path.stat().st_mtime > STALE:
                    path.unlink()
            except FileNotFoundError:
                continue  # its writer has just finished


def _write_durably(path: Path, data: bytes) -> None:
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _fsync_folder(folder: Path) -> None:
    """Make a rename in `folder` survive a power loss."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
