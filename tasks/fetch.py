"""From an address in a configuration to a file or folder on this disk, with the promised bytes.

    /a/path, ~/a/path, $DATA/a/path, file:///a/path     used where it lies
    s3://bucket/key, s3://bucket/prefix/                downloaded once per version
    https://host/file                                   downloaded once; needs a sha256

The version of an object is its ETag; `tasks/cache.py` says how downloads are kept.
"""

import os
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit
from urllib.request import url2pathname

from hardening.errors import ConfigError, DataError
from hardening.log import Log
from tasks import https, s3
from tasks.cache import cached, check_digest, check_size
from tasks.digest import content_sha256

CONNECTIONS = 8
"""Objects of a folder that are downloaded at a time."""


def fetch_file(uri: str, sha256: str, cache: Path, log: Log) -> Path:
    """The file (or, for a folder's path or an s3:// prefix ending in /, the folder) at `uri`.

    `sha256` may be empty, except for https; a folder's is `tasks.digest.tree_sha256`.

    Raises:
        ConfigError: The address is of no known kind, names an unset variable or nothing that
            exists; https without a sha256; a cache that cannot be written.
        DigestError: The bytes are not the promised ones; nothing of them is kept.
        DataError: A file above the size limit, or an S3 key that would leave its folder.
        ServiceError: A server cannot be reached or refuses, after bounded retries.
    """
    if sha256 and not re.fullmatch("[0-9a-fA-F]{64}", sha256):
        raise ConfigError(f"sha256 of {uri}: got {sha256!r}, expected 64 hexadecimal digits")
    address, promised = expand(uri), sha256.lower()
    scheme = address.partition("://")[0] if "://" in address else ""
    if scheme in {"", "file"}:
        return _local(address, promised)
    if scheme == "s3":
        source = _prefix if address.endswith("/") else _object
        return source(address, promised, cache, log)
    if scheme != "https":
        raise ConfigError(
            f"got {https.shown(address)}, expected a path, file://, s3:// or https:// "
            "(http:// is refused: anyone on the way could change it)"
        )
    if not promised:
        raise ConfigError(f"{https.shown(address)}: has no sha256, expected one for https://")
    name = PurePosixPath(unquote(urlsplit(address).path)).name or "download"
    return cached(cache, [address], name, promised, lambda path: https.download(address, path, log))


def fetch_object(bucket: s3.Bucket, found: s3.Object, cache: Path, log: Log) -> Path:
    """A listed object as a file on this disk. Its key is somebody else's word: nothing expands it.

    Raises:
        ConfigError: The cache cannot be written, or the object is larger than is downloaded.
        ServiceError: The server cannot be reached or refuses, after bounded retries.
    """
    return _saved(bucket, found, "object", "", cache, log)


def expand(text: str) -> str:
    """Put the home folder for a leading `~`, and environment variables for `$NAME` and `${NAME}`.

    Raises:
        ConfigError: A variable is not set.
    """

    def value(match: re.Match[str]) -> str:
        name = match[1] or match[2]
        if name not in os.environ:
            raise ConfigError(f"{text}: the environment variable {name} is not set")
        return os.environ[name]

    expanded = re.sub(r"\$(?:(\w+)|\{(\w+)\})", value, text)
    return str(Path(expanded).expanduser()) if expanded.startswith("~") else expanded


def _local(address: str, promised: str) -> Path:
    path = Path(address)
    if address.startswith("file://"):
        parts = urlsplit(address)
        if parts.netloc or not parts.path:
            raise ConfigError(f"got {address!r}, expected file:///path")
        path = Path(url2pathname(parts.path))
    if not path.exists():
        raise ConfigError(f"{path}: no such file or folder")
    if promised:
        check_digest(str(path), content_sha256(path), promised)
    return path


def _object(address: str, promised: str, cache: Path, log: Log) -> Path:
    parent, _, name = address.rpartition("/")
    bucket = s3.Bucket(parent)
    found = bucket.head(name)
    if found is None:
        raise ConfigError(f"{address}: no such object or bucket (a folder's ends in /)")
    return _saved(bucket, found, name, promised, cache, log)


def _saved(
    bucket: s3.Bucket, found: s3.Object, name: str, promised: str, cache: Path, log: Log
) -> Path:
    address = f"{bucket.uri}/{found.key}"
    check_size(address, found.size)

    def write(path: Path) -> None:
        with log.progress(f"download {address}", found.size, "B") as progress:
            bucket.save(found, path, progress)

    return cached(cache, [address, bucket.endpoint, found.etag], name, promised, write)


def _prefix(address: str, promised: str, cache: Path, log: Log) -> Path:
    bucket = s3.Bucket(address)
    # A console marks an empty folder by an object whose key ends in a slash.
    objects = [found for found in bucket.list() if found.size or not found.key.endswith("/")]
    if not objects:
        raise ConfigError(f"{address}: no object has this prefix")
    for found in objects:
        _check_key(address, found.key)
    total = sum(found.size for found in objects)
    check_size(address, total)

    def write(folder: Path) -> None:
        def save(found: s3.Object) -> int:
            bucket.save(found, folder / found.key, lambda _: None)
            return found.size

        with (
            log.progress(f"download {address}", total, "B") as progress,
            ThreadPoolExecutor(CONNECTIONS) as pool,
        ):
            for size in pool.map(save, objects):
                progress(size)

    version = [part for found in objects for part in (found.key, found.etag)]
    return cached(cache, [address, bucket.endpoint, *version], "folder", promised, write)


def _check_key(address: str, key: str) -> None:
    """Refuse a key that, as a path, would leave the folder or be another file's."""
    if {"", ".", ".."} & set(key.split("/")) or "\\" in key or "\0" in key:
        raise DataError(f"{address}: got the key {key!r}, expected one that is a path below it")
