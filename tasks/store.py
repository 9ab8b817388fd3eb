"""Content-addressed artifacts, finished steps and checkpoints: what makes a re-run cheap and safe.

    blobs/<2>/<sha256>     bytes under their digest
    steps/<key>.json       one small manifest per finished step, written after its outputs
    checkpoints/<key>      where an unfinished step stands, its digest in front
    corrupt/               blobs that did not match their digest
    ledger/<model>/<n>     who was made champion, one entry after the other: see `tasks.ledger`

No locks: a write is atomic, and two writers of one blob write the same bytes.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Protocol
from urllib.parse import urlsplit
from urllib.request import url2pathname

from pydantic import Field, JsonValue, ValidationError

from hardening.errors import ConfigError, DigestError
from hardening.spec import Record
from tasks.folder import Folder
from tasks.s3 import Bucket

SCHEMA_VERSION = 1

Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class Artifact(Record):
    """Bytes in a store: where they are, their digest, and how many there are."""

    uri: str
    sha256: Sha256
    size: int


class Blob(Record):
    """An output as a manifest keeps it: without an address, so that a store can be moved."""

    sha256: Sha256
    size: int


class Manifest(Record):
    """One finished step."""

    schema_version: int
    key: str
    outputs: dict[str, Blob]
    facts: dict[str, JsonValue]


class Ground(Protocol):
    """Where a store keeps named bytes; writes are atomic."""

    @property
    def uri(self) -> str:
        """Address of the ground, without a slash at the end."""

    def read(self, name: str) -> bytes | None:
        """The bytes of `name`, or None when there are none."""

    def size(self, name: str) -> int | None:
        """How many bytes `name` has, or None when there are none."""

    def holds(self, name: str, data: bytes) -> bool:
        """Whether `name` holds exactly `data`."""

    def write(self, name: str, data: bytes) -> None:
        """Make `name` hold `data`."""

    def create(self, name: str, data: bytes) -> bool:
        """Make `name` hold `data` if nobody else did; whether it was us. At most one wins."""

    def set_aside(self, name: str) -> None:
        """Move `name` where nothing reads it."""

    def delete(self, name: str) -> None:
        """Remove `name` if it is there."""


class Store:
    """Keeps bytes under their sha256 and remembers which step made them.

    All methods raise ServiceError when the ground cannot be reached, read or written.
    """

    def __init__(self, ground: Ground) -> None:
        self._ground = ground
        self.uri = ground.uri

    def put(self, data: bytes) -> Artifact:
        """Keep `data`; what is there already is checked and not written again."""
        blob = Blob(sha256=hashlib.sha256(data).hexdigest(), size=len(data))
        if not self._ground.holds(_name(blob.sha256), data):
            self._ground.write(_name(blob.sha256), data)
        return self._artifact(blob)

    def get(self, artifact: Artifact) -> bytes:
        """The bytes of `artifact`, found by its digest and hashed again.

        Raises:
            DigestError: They are missing or are not the bytes that were put; those are moved
                aside, so that the step that made them runs again and heals them.
        """
        name = _name(artifact.sha256)
        data = self._ground.read(name)
        if data is None:
            raise DigestError(f"artifact {self.uri}/{name}: is missing, expected {artifact.size} B")
        got = hashlib.sha256(data).hexdigest()
        if got != artifact.sha256:
            self._ground.set_aside(name)
            raise DigestError(
                f"artifact {self.uri}/{name}: got {len(data)} B with sha256 {got}, "
                f"expected {artifact.size} B with sha256 {artifact.sha256}; moved to corrupt/"
            )
        return data

    def lookup(self, key: str) -> dict[str, Artifact] | None:
        """The outputs of the finished step `key`; None when it must run.

        A manifest that does not parse, or an output that is lost or has another size, is a miss.
        """
        text = self._ground.read(f"steps/{_checked(key)}.json")
        if text is None:
            return None
        try:
            manifest = Manifest.model_validate_json(text)
        except ValidationError:
            return None
        if manifest.schema_version != SCHEMA_VERSION or manifest.key != key:
            return None
        if any(
            self._ground.size(_name(blob.sha256)) != blob.size for blob in manifest.outputs.values()
        ):
            return None
        return {name: self._artifact(blob) for name, blob in manifest.outputs.items()}

    def record(
        self, key: str, outputs: Mapping[str, Artifact], facts: Mapping[str, JsonValue]
    ) -> None:
        """Remember that the step `key` made `outputs`; `facts` are for a person who asks why.

        Raises:
            ValueError: `facts` hold what JSON cannot (NaN, infinity, an object).
        """
        blobs = {name: {"sha256": a.sha256, "size": a.size} for name, a in outputs.items()}
        manifest = {
            "schema_version": SCHEMA_VERSION,
            "key": key,
            "outputs": blobs,
            "facts": dict(facts),
        }
        text = json.dumps(manifest, sort_keys=True, indent=1, allow_nan=False).encode()
        self._ground.write(f"steps/{_checked(key)}.json", text)

    def save_checkpoint(self, key: str, data: bytes) -> None:
        """Keep where the step `key` stands; replaces the checkpoint before."""
        digest = hashlib.sha256(data).digest()
        self._ground.write(f"checkpoints/{_checked(key)}", digest + data)

    def load_checkpoint(self, key: str) -> bytes | None:
        """The last checkpoint of the step `key`; None when there is none, or it is torn."""
        data = self._ground.read(f"checkpoints/{_checked(key)}")
        if data is None or hashlib.sha256(data[32:]).digest() != data[:32]:
            return None
        return data[32:]

    def drop_checkpoint(self, key: str) -> None:
        """Forget the checkpoint of the step `key`."""
        self._ground.delete(f"checkpoints/{_checked(key)}")

    def _artifact(self, blob: Blob) -> Artifact:
        uri = f"{self.uri}/{_name(blob.sha256)}"
        return Artifact(uri=uri, sha256=blob.sha256, size=blob.size)


def open_store(uri: str) -> Store:
    """The store at `file:///folder` (made when missing) or `s3://bucket/prefix`, known to work.

    Raises:
        ConfigError: The address is not one of these, or the folder cannot be written.
        ServiceError: The S3 server cannot be reached, refuses us, or has no such bucket.
    """
    return Store(open_ground(uri))


def open_ground(uri: str) -> Ground:
    """Where the store at `uri` keeps its bytes.

    Raises:
        ConfigError, ServiceError: As `open_store`.
    """
    parts = urlsplit(uri)
    if parts.scheme == "s3":
        bucket = Bucket(uri)
        bucket.check()
        return bucket
    if parts.scheme == "file" and not parts.netloc and parts.path.startswith("/"):
        return Folder(Path(url2pathname(parts.path)))
    raise ConfigError(f"store: got {uri!r}, expected file:///folder or s3://bucket/prefix")


def _name(sha256: str) -> str:
    return f"blobs/{sha256[:2]}/{sha256}"


def _checked(key: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}", key):
        raise ValueError(f"step key: got {key!r}, expected letters, digits, '.', '_' or '-'")
    return key
