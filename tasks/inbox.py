"""A folder or an S3 prefix in which ONNX files arrive: each becomes a version, once."""

import hashlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit
from urllib.request import url2pathname

from hardening.errors import ConfigError
from hardening.log import Log
from tasks import s3
from tasks.claims import claim
from tasks.console import say
from tasks.fetch import expand, fetch_file
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
    """A file: its address, a mark that changes with its bytes, its size and when it was written."""

    uri: str
    mark: str
    size: int
    modified: float


def register_arrivals(source: str, name: str, log: Log) -> list[int]:
    """Make every new file under `source` a version of `name`, the oldest first.

    A file is new if no version has its bytes. One whose state is known is not read again.

    Raises:
        ConfigError: `source` is no folder, file:// or s3:// address.
        ServiceError: MLflow, S3 or the store does not answer or refuses.
    """
    check_name(name)
    ground = open_ground(store_uri())
    with claim(ground, f"inbox-{name}", lease()) as ours, mlflow_client() as client:
        if not ours:
            say(f"{source}: somebody else registers what arrived there")
            return []
        versions = every(client, name)
        states = {(found.tags.get(SOURCE), found.tags.get(MARK)) for found in versions}
        digests = {found.sha256 for found in versions}
        registered = []
        for file in sorted(_listed(source), key=lambda file: (file.modified, file.uri)):
            if (file.uri, file.mark) in states:
                continue
            if file.size > LARGEST:
                say(f"{file.uri}: {file.size} B, more than an ONNX file can have; left aside")
                continue
            data = fetch_file(file.uri, "", home() / "downloads", log).read_bytes()
            digest = hashlib.sha256(data).hexdigest()
            if digest in digests:
                continue
            digests.add(digest)
            tags = {"temper.sha256": digest, SOURCE: file.uri, MARK: file.mark}
            registered.append(_register(client, name, data, tags))
            say(f"{file.uri}: registered as version {registered[-1]} of {name}")
        return registered


def _listed(source: str) -> Iterator[Arrived]:
    address = expand(source)
    if address.startswith("s3://"):
        bucket = s3.Bucket(address)
        for found in bucket.list():
            if found.key.endswith(".onnx"):
                uri = f"{bucket.uri}/{found.key}"
                yield Arrived(uri, found.etag, found.size, found.modified)
        return
    path = Path(address)
    if address.startswith("file://"):
        path = Path(url2pathname(urlsplit(address).path))
    if not path.is_dir():
        raise ConfigError(f"intake.source: got {source!r}, expected a folder, file:// or s3://")
    for file in path.rglob("*.onnx"):
        if file.is_file():
            now = file.stat()
            uri = file.absolute().as_uri()
            yield Arrived(uri, f"{now.st_mtime_ns}-{now.st_size}", now.st_size, now.st_mtime)


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
