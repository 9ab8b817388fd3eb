"""Downloads kept on this disk: whole and verified, or not there.

<cache>/<digest of the identity>/content/<name>   what was downloaded, a file or a folder
<cache>/<digest of the identity>/sha256           its digest, so that damage is noticed
<cache>/tmp-<random>/                             a download under way
"""

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from hardening.errors import ConfigError, DataError, DigestError
from tasks.digest import content_sha256
from tasks.settings import MAX_DOWNLOAD, max_download

STALE = 24 * 3600
"""Seconds after which an unfinished download belongs to a process that was killed."""


def cached(
    cache: Path, identity: Sequence[str], name: str, sha256: str, write: Callable[[Path], None]
) -> Path:
    """The content known as `identity`; `write(path)` is called only when it is not here unharmed.

    `name` is the last part of the returned path, `sha256` the promised digest ("" for none).

    Raises:
        ConfigError: The cache cannot be written.
        DigestError: What was written is not what was promised; nothing of it is kept.
    """
    key = hashlib.sha256(json.dumps([*identity, sha256]).encode()).hexdigest()
    entry = cache / key
    with _naming(cache):
        if not _unharmed(entry, name):
            shutil.rmtree(entry, ignore_errors=True)
            _fill(cache, entry, name, sha256, write)
    return entry / "content" / name


def check_digest(what: str, got: str, expected: str) -> None:
    """Raise a DigestError unless the two digests are the same."""
    if got != expected:
        raise DigestError(f"{what}: got sha256 {got}, expected {expected}")


def check_size(what: str, size: int) -> None:
    """Refuse a download that is larger than the settings allow.

    Raises:
        DataError: It is.
    """
    if size > (limit := max_download()):
        raise DataError(
            f"{what}: got {size} B or more, expected at most {limit} B ({MAX_DOWNLOAD})"
        )


def _unharmed(entry: Path, name: str) -> bool:
    content, digest = entry / "content" / name, entry / "sha256"
    return content.exists() and digest.exists() and digest.read_text() == content_sha256(content)


def _fill(cache: Path, entry: Path, name: str, sha256: str, write: Callable[[Path], None]) -> None:
    cache.mkdir(parents=True, exist_ok=True)
    _sweep(cache)
    temporary = cache / f"tmp-{uuid4().hex}"
    content = temporary / "content" / name
    content.parent.mkdir(parents=True)
    try:
        write(content)
        got = content_sha256(content)
        check_digest(name, got, sha256 or got)
        (temporary / "sha256").write_text(got)
        try:
            temporary.rename(entry)
        except OSError:
            if not _unharmed(entry, name):  # else another process was quicker
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _sweep(cache: Path) -> None:
    for path in cache.glob("tmp-*"):
        if time.time() - path.stat().st_mtime > STALE:
            shutil.rmtree(path, ignore_errors=True)


@contextmanager
def _naming(cache: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        path = error.filename or cache
        raise ConfigError(f"download cache: {path} cannot be written ({error.strerror})") from error
