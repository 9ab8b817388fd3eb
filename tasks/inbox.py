"""A folder or an S3 prefix in which ONNX files arrive: each becomes a version, once."""

import hashlib
import stat
import tempfile
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit
from urllib.request import url2pathname

from hardening.errors import ConfigError, DataError, HardeningError, ServiceError
from hardening.log import Log
from tasks import s3
from tasks.claims import claim
from tasks.console import say
from tasks.fetch import expand, fetch_object
from tasks.mlflow_client import experiment_id, mlflow_client
from tasks.mlflow_model import FILE
from tasks.settings import home, lease, store_uri
from tasks.store import open_ground
from tasks.versions import check_name, every, make

if TYPE_CHECKING:
    from mlflow import MlflowClient

SOURCE, MARK = "temper.source", "temper.source_mark"
"""The tags of a version that came as a file: its address, and which state of that address."""

LARGEST = 2 << 30
"""Bytes that one ONNX file can have, by its format."""


class Arrived(NamedTuple):
    """A file: its address, a mark that changes with its bytes, its size and when it was written.

    `fetch` gives its path on this disk. Who may put a file there chooses its name, and no more: a
    name is never expanded, a link never followed.
    """

    uri: str
    mark: str
    size: int
    modified: float
    fetch: Callable[[], Path]


class Received(NamedTuple):
    """The versions that were made, and what went wrong with files of which none was made."""

    registered: list[int]
    failed: list[str]


def register_arrivals(source: str, name: str, log: Log) -> Received:
    """Make every new file under `source` a version of `name`, the oldest first.

    A file is new if no version has its bytes. One whose state is known is not read again; one that
    cannot be read stops no other.

    Raises:
        ConfigError: `source` is no folder, file:// or s3:// address.
        ServiceError: MLflow, S3 or the store does not answer or refuses.
    """
    check_name(name)
    ground = open_ground(store_uri())
    with claim(ground, f"inbox-{name}", lease()) as ours, mlflow_client() as client:
        if not ours:
            say(f"{source}: somebody else registers what arrived there")
            return Received([], [])
        return _register_new(client, name, _listed(source, log))


def _register_new(client: "MlflowClient", name: str, files: Iterable[Arrived]) -> Received:
    versions = every(client, name)
    states = {(found.tags.get(SOURCE), found.tags.get(MARK)) for found in versions}
    digests = {found.sha256 for found in versions}
    received = Received([], [])
    for file in sorted(files, key=lambda file: (file.modified, file.uri)):
        if (file.uri, file.mark) in states:
            continue
        if file.size > LARGEST:
            say(f"{file.uri}: {file.size} B, more than an ONNX file can have; left aside")
            continue
        try:
            data = _read(file)
        except HardeningError as error:
            say(str(error))
            received.failed.append(str(error))
            continue
        digest = hashlib.sha256(data).hexdigest()
        if digest not in digests:
            digests.add(digest)
            tags = {"temper.sha256": digest, SOURCE: file.uri, MARK: file.mark}
            received.registered.append(_register(client, name, data, tags))
            say(f"{file.uri}: registered as version {received.registered[-1]} of {name}")
    return received


def _read(file: Arrived) -> bytes:
    try:
        return file.fetch().read_bytes()
    except OSError as error:
        raise DataError(f"{file.uri}: cannot be read ({error.strerror})") from error


def _listed(source: str, log: Log) -> Iterator[Arrived]:
    address = expand(source)
    if address.startswith("s3://"):
        bucket = s3.Bucket(address)
        for found in bucket.list():
            if found.key.endswith(".onnx"):
                fetch = partial(fetch_object, bucket, found, home() / "downloads", log)
                uri = f"{bucket.uri}/{found.key}"
                yield Arrived(uri, found.etag, found.size, found.modified, fetch)
        return
    path = Path(address)
    if address.startswith("file://"):
        path = Path(url2pathname(urlsplit(address).path))
    if not path.is_dir():
        raise ConfigError(f"intake.source: got {source!r}, expected a folder, file:// or s3://")
    try:
        yield from _in_folder(path.absolute())
    except OSError as error:
        raise ServiceError(f"{error.filename}: cannot be listed ({error.strerror})") from error


def _in_folder(folder: Path) -> Iterator[Arrived]:
    for file in folder.rglob("*.onnx"):
        now = file.lstat()
        if stat.S_ISLNK(now.st_mode):
            say(f"{file.as_uri()}: a link, expected a file; left aside")
        elif stat.S_ISREG(now.st_mode):
            mark = f"{now.st_mtime_ns}-{now.st_size}"
            fetch = partial(Path, file)
            yield Arrived(file.as_uri(), mark, now.st_size, now.st_mtime, fetch)


def _register(client: "MlflowClient", name: str, data: bytes, tags: dict[str, str]) -> int:
    """Keep `data` in MLflow as it came: nothing parses it before it is taken in."""
    made = client.create_logged_model(experiment_id(client, name), name=name.replace(".", "-"))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, FILE)
        path.write_bytes(data)
        client.log_model_artifact(made.model_id, str(path))
    client.finalize_logged_model(made.model_id, "READY")
    make(client, name)
    uri = f"models:/{made.model_id}"
    return int(client.create_model_version(name, uri, tags=tags, model_id=made.model_id).version)
