"""Bytes over https: bounded in time, size and attempts, and never redirected to anything else."""

import http.client
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit

from hardening.errors import ServiceError
from hardening.log import Log
from tasks.cache import check_size

CHUNK = 1 << 20
"""Bytes that are read at a time."""

TIMEOUT = 30.0
"""Seconds without a byte after which an attempt is given up."""

ATTEMPTS = 3
"""Tries of one download; between two of them 1 s, then 2 s."""


class _Interrupted(Exception):
    """The server or the way to it failed; another attempt may succeed."""


def download(url: str, path: Path, log: Log) -> None:
    """Write what is at `url` to the new file `path`.

    Raises:
        ServiceError: No whole answer after `ATTEMPTS` tries, a refusal (4xx), or a redirection to
            something that is not https.
        DataError: The file is larger than the limit.
    """
    for attempt in range(1, ATTEMPTS + 1):
        try:
            _download_once(url, path, log)
        except _Interrupted as error:
            if attempt == ATTEMPTS:
                raise ServiceError(f"{shown(url)}: {error} ({ATTEMPTS} attempts)") from error
            time.sleep(2.0 ** (attempt - 1))
        else:
            return


def _download_once(url: str, path: Path, log: Log) -> None:
    with _opened(url) as answer, path.open("wb") as file:
        total = int(answer.headers.get("Content-Length") or 0)
        check_size(shown(url), total)
        with log.progress(f"download {shown(url)}", total, "B") as advance:
            for chunk in _chunks(url, answer, total):
                file.write(chunk)
                advance(len(chunk))


def _opened(url: str) -> http.client.HTTPResponse:
    request = urllib.request.Request(url, headers={"User-Agent": "temper"})  # noqa: S310  https only
    try:
        answer: http.client.HTTPResponse = urllib.request.build_opener(_HttpsOnly).open(
            request, timeout=TIMEOUT
        )
    except urllib.error.HTTPError as error:
        error.close()
        if error.code >= 500 or error.code == 429:
            raise _Interrupted(f"got status {error.code}, expected the file") from error
        raise ServiceError(f"{shown(url)}: got status {error.code}, expected the file") from error
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        if isinstance(reason, ssl.SSLCertVerificationError):
            raise ServiceError(f"{shown(url)}: {reason}") from error
        raise _Interrupted(f"does not answer ({reason})") from error
    return answer


def shown(url: str) -> str:
    """`url` as a message may show it: without password and query, which can be a signature."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _chunks(url: str, answer: http.client.HTTPResponse, total: int) -> Iterator[bytes]:
    received = 0
    while True:
        try:
            chunk = answer.read(CHUNK)
        except (OSError, http.client.HTTPException) as error:
            raise _Interrupted(f"broke off after {received} B ({error})") from error
        if not chunk:
            break
        received += len(chunk)
        check_size(shown(url), received)
        yield chunk
    if total and received != total:
        raise _Interrupted(f"broke off after {received} of {total} B")


class _HttpsOnly(urllib.request.HTTPRedirectHandler):
    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        if urlsplit(newurl).scheme != "https":
            raise ServiceError(
                f"{shown(req.full_url)}: redirects to {shown(newurl)}, expected an https address"
            )
        return super().redirect_request(req, fp, code, msg, headers, newurl)
