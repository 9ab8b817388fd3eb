"""Objects in S3, or in anything that speaks its protocol; a failure is one line that names them.

Addresses and keys come from the standard environment: AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL,
AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION and the rest that boto3 knows.
"""

import base64
import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from hardening.errors import ConfigError, ServiceError
from tasks.s3_failures import NO_S3, naming, patiently

CHUNK = 1 << 20
"""Bytes that are read from an object at a time."""

CONNECT_TIMEOUT, READ_TIMEOUT = 3.0, 30.0
"""Seconds for reaching the server, and without a byte from it, until an attempt is given up."""


class Object(NamedTuple):
    """One object of a listing or a HEAD: key relative to what was listed, bytes, version tag.

    `modified` is when it was written, seconds of the clock.
    """

    key: str
    size: int
    etag: str
    modified: float


def parse(uri: str) -> tuple[str, str]:
    """`s3://bucket/some/key` -> `("bucket", "some/key")`; the key may be empty.

    Raises:
        ConfigError: It is not such an address.
    """
    scheme, separator, rest = uri.partition("://")
    bucket, _, key = rest.partition("/")
    if scheme != "s3" or not separator or not bucket:
        raise ConfigError(f"got {uri!r}, expected s3://bucket/key")
    return bucket, key


def client() -> Any:
    """A boto3 S3 client from the standard environment; it tries once: see `patiently`.

    Raises:
        ConfigError: The endpoint in the environment is not a URL.
    """
    import boto3  # noqa: PLC0415  half a second that a command without S3 need not pay
    from botocore.config import Config  # noqa: PLC0415

    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    config = Config(
        retries={"mode": "standard", "total_max_attempts": 1},
        connect_timeout=CONNECT_TIMEOUT,
        read_timeout=READ_TIMEOUT,
        # Servers other than Amazon's have no host name per bucket.
        s3={"addressing_style": "path"} if endpoint else {},
    )
    try:
        # A session of our own: boto3's default one is not thread-safe and keeps old credentials.
        return boto3.Session().client("s3", config=config)
    except ValueError as error:
        raise ConfigError(
            f"AWS_ENDPOINT_URL: got {endpoint!r}, expected an address such as http://host:9000"
        ) from error


class Bucket:
    """Named bytes in the objects of one bucket under a prefix.

    All methods raise ServiceError when the server cannot be reached or refuses.
    """

    def __init__(self, uri: str) -> None:
        self.name, prefix = parse(uri)
        self._prefix = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
        self.uri = f"s3://{self.name}/{self._prefix}".rstrip("/")
        self._client = client()
        address = urlsplit(self._client.meta.endpoint_url)
        # Never show a password in an address.
        self.endpoint = f"{address.scheme}://{address.netloc.rpartition('@')[2]}"

    def read(self, name: str) -> bytes | None:
        """The bytes of `name`, or None when there is no such object."""
        with self._naming("read", name):
            try:
                return patiently(partial(self._read_once, name))
            except self._client.exceptions.NoSuchKey:
                return None

    def save(self, entry: Object, path: Path, advance: Callable[[int], object]) -> None:
        """Write that very version of an object to the new file `path`."""
        path.parent.mkdir(parents=True, exist_ok=True)
        with self._naming("read", entry.key):
            patiently(partial(self._save_once, entry, path, advance))

    def size(self, name: str) -> int | None:
        """How many bytes `name` has, or None when there is no such object."""
        found = self._head(name)
        return None if found is None else found["ContentLength"]

    def head(self, name: str) -> Object | None:
        """Size and version of `name`, or None when there is no such object."""
        found = self._head(name)
        if found is None:
            return None
        modified = found["LastModified"].timestamp()
        return Object(name, found["ContentLength"], found["ETag"], modified)

    def list(self) -> Iterator[Object]:
        """All objects under the prefix; keys are relative to it."""
        with self._naming("listed", ""):
            for entry in patiently(self._list_once):
                key = entry["Key"].removeprefix(self._prefix)
                modified = entry["LastModified"].timestamp()
                yield Object(key, entry["Size"], entry["ETag"], modified)

    def check(self) -> None:
        """Raise a ServiceError unless the bucket exists and lets us list and write."""
        with self._naming("listed", ""):
            # Some servers make a missing bucket on the first write: a wrong name must not pass.
            listed = partial(self._client.list_objects_v2, Bucket=self.name, Prefix=self._prefix)
            answer = patiently(partial(listed, MaxKeys=1))
        if "Name" not in answer:
            raise ServiceError(f"{self.endpoint}: got an answer that is not S3's; {NO_S3}")
        self.write("probe", b"")

    def holds(self, name: str, data: bytes) -> bool:
        """Whether `name` was uploaded as exactly `data`, going by the checksum kept beside it."""
        found = self._head(name)
        return (
            found is not None
            and found["ContentLength"] == len(data)
            and found.get("ChecksumSHA256") == _checksum(data)
        )

    def write(self, name: str, data: bytes) -> None:
        """Make `name` hold `data`; the server verifies what arrives."""
        with self._naming("written", name):
            patiently(partial(self._client.put_object, **self._upload(name, data)))

    def create(self, name: str, data: bytes) -> bool:
        """Make `name` hold `data` if nobody else did; whether it was us.

        A request that is repeated may meet its own first try: then the bytes are ours.
        """
        from botocore.exceptions import ClientError  # noqa: PLC0415

        with self._naming("written", name):
            try:
                patiently(
                    partial(self._client.put_object, **self._upload(name, data), IfNoneMatch="*")
                )
            except ClientError as error:
                if error.response["ResponseMetadata"]["HTTPStatusCode"] not in (409, 412):
                    raise
                return self.read(name) == data
            return True

    def set_aside(self, name: str) -> None:
        """Move `name` to `corrupt/`, where nothing reads it."""
        data = self.read(name)
        if data is not None:  # else another reader was quicker
            self.write(f"corrupt/{name.rpartition('/')[2]}", data)
            self.delete(name)

    def delete(self, name: str) -> None:
        """Remove `name` if it is there."""
        with self._naming("deleted", name):
            patiently(partial(self._client.delete_object, **self._object(name)))

    def _read_once(self, name: str) -> bytes:
        data: bytes = self._client.get_object(**self._object(name))["Body"].read()
        return data

    def _save_once(self, entry: Object, path: Path, advance: Callable[[int], object]) -> None:
        received = 0
        try:
            with path.open("wb") as file:
                answer = self._client.get_object(**self._object(entry.key), IfMatch=entry.etag)
                for chunk in answer["Body"].iter_chunks(CHUNK):
                    received += len(chunk)
                    if received > entry.size:  # or a server could fill the disk
                        raise ServiceError(
                            f"{self.uri}/{entry.key} at {self.endpoint}: got {received} B or "
                            f"more, expected {entry.size} B as the server had said"
                        )
                    file.write(chunk)
                    advance(len(chunk))
        except BaseException:
            advance(-received)
            raise

    def _list_once(self) -> Sequence[dict[str, Any]]:
        pages = self._client.get_paginator("list_objects_v2")
        found = pages.paginate(Bucket=self.name, Prefix=self._prefix)
        return [entry for page in found for entry in page.get("Contents", [])]

    def _object(self, name: str) -> dict[str, Any]:
        return {"Bucket": self.name, "Key": f"{self._prefix}{name}"}

    def _upload(self, name: str, data: bytes) -> dict[str, Any]:
        return {**self._object(name), "Body": data, "ChecksumSHA256": _checksum(data)}

    def _head(self, name: str) -> dict[str, Any] | None:
        from botocore.exceptions import ClientError  # noqa: PLC0415

        with self._naming("read", name):
            try:
                found: dict[str, Any] = patiently(
                    partial(self._client.head_object, **self._object(name), ChecksumMode="ENABLED")
                )
            except ClientError as error:
                if error.response["ResponseMetadata"]["HTTPStatusCode"] == 404:
                    return None
                raise
        if not found.keys() >= {"ContentLength", "ETag", "LastModified"}:
            raise ServiceError(f"{self.endpoint}: got an answer that is not S3's; {NO_S3}")
        return found

    def _naming(self, verb: str, name: str) -> AbstractContextManager[None]:
        uri = f"{self.uri}/{name}".rstrip("/")
        what = f"{uri} at {self.endpoint}: cannot be {verb}"
        return naming(what, hidden=self._client.meta.endpoint_url, shown=self.endpoint)


def _checksum(data: bytes) -> str:
    return base64.b64encode(hashlib.sha256(data).digest()).decode()
