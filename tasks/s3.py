"""Objects in S3, or in anything that speaks its protocol; a failure is one line that names them.

Addresses and keys come from the standard environment: AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL,
AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION and the rest that boto3 knows.
"""

import base64
import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from hardening.errors import ConfigError, ServiceError

CHUNK = 1 << 20
"""Bytes that are read from an object at a time."""


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
    """A boto3 S3 client from the standard environment: 3 attempts, 3 s to connect, 30 s to read.

    Raises:
        ConfigError: The endpoint in the environment is not a URL.
    """
    import boto3  # noqa: PLC0415  half a second that a command without S3 need not pay
    from botocore.config import Config  # noqa: PLC0415

    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    config = Config(
        retries={"mode": "standard", "total_max_attempts": 3},
        connect_timeout=3,
        read_timeout=30,
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
                body = self._client.get_object(**self._object(name))["Body"]
            except self._client.exceptions.NoSuchKey:
                return None
            data: bytes = body.read()
            return data

    def save(self, entry: Object, path: Path, advance: Callable[[int], object]) -> None:
        """Write that very version of an object to the new file `path`; tries twice."""
        try:
            self._save_once(entry, path, advance)
        except ServiceError:  # boto3 repeats requests, but not a transfer that broke off
            self._save_once(entry, path, advance)

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
            pages = self._client.get_paginator("list_objects_v2")
            for page in pages.paginate(Bucket=self.name, Prefix=self._prefix):
                for entry in page.get("Contents", []):
                    key = entry["Key"].removeprefix(self._prefix)
                    modified = entry["LastModified"].timestamp()
                    yield Object(key, entry["Size"], entry["ETag"], modified)

    def check(self) -> None:
        """Raise a ServiceError unless the bucket exists and lets us list and write."""
        with self._naming("listed", ""):
            # Some servers make a missing bucket on the first write: a wrong name must not pass.
            self._client.list_objects_v2(Bucket=self.name, Prefix=self._prefix, MaxKeys=1)
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
            self._client.put_object(**self._object(name), Body=data, ChecksumSHA256=_checksum(data))

    def create(self, name: str, data: bytes) -> bool:
        """Make `name` hold `data` if nobody else did; whether it was us.

        A request that boto3 repeats may meet its own first try: then the bytes are ours.
        """
        from botocore.exceptions import ClientError  # noqa: PLC0415

        with self._naming("written", name):
            try:
                self._client.put_object(
                    **self._object(name),
                    Body=data,
                    ChecksumSHA256=_checksum(data),
                    IfNoneMatch="*",
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
            self._client.delete_object(**self._object(name))

    def _save_once(self, entry: Object, path: Path, advance: Callable[[int], object]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with self._naming("read", entry.key), path.open("wb") as file:
            answer = self._client.get_object(**self._object(entry.key), IfMatch=entry.etag)
            for chunk in answer["Body"].iter_chunks(CHUNK):
                file.write(chunk)
                advance(len(chunk))

    def _object(self, name: str) -> dict[str, str]:
        return {"Bucket": self.name, "Key": f"{self._prefix}{name}"}

    def _head(self, name: str) -> dict[str, Any] | None:
        from botocore.exceptions import ClientError  # noqa: PLC0415

        with self._naming("read", name):
            try:
                found: dict[str, Any] = self._client.head_object(
                    **self._object(name), ChecksumMode="ENABLED"
                )
            except ClientError as error:
                if error.response["ResponseMetadata"]["HTTPStatusCode"] == 404:
                    return None
                raise
            return found

    @contextmanager
    def _naming(self, verb: str, name: str) -> Iterator[None]:
        from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415

        try:
            yield
        except ClientError as error:
            reason = error.response.get("Error", {})
            what = f"{reason.get('Code', '')} {reason.get('Message', '')}".strip()
            raise ServiceError(self._refusal(verb, name, what)) from error
        except BotoCoreError as error:
            raise ServiceError(self._refusal(verb, name, str(error))) from error

    def _refusal(self, verb: str, name: str, reason: str) -> str:
        uri = f"{self.uri}/{name}".rstrip("/")
        text = " ".join(reason.replace(self._client.meta.endpoint_url, self.endpoint).split())
        return f"{uri} at {self.endpoint}: cannot be {verb} ({text})"


def _checksum(data: bytes) -> str:
    return base64.b64encode(hashlib.sha256(data).digest()).decode()
