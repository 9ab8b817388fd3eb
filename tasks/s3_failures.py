"""Failures of an S3 server: which of them may pass, and what a person can do about the others."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from hardening.errors import ServiceError

PAUSES = (1.0, 2.0)
"""Seconds between two attempts of a request or of a transfer: there is one attempt more."""

KEYS = "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"

BROKE_OFF = "see the server's log, and what lies between it and this machine"

NO_S3 = "this is no S3 server: correct AWS_ENDPOINT_URL"

CURES = {
    "NoSuchBucket": "make the bucket, or correct its name",
    "InvalidAccessKeyId": f"the server does not know the key: correct {KEYS}",
    "SignatureDoesNotMatch": "the secret is not that of the key: correct AWS_SECRET_ACCESS_KEY",
    "AccessDenied": "give the key the right to list, read, write and delete in this bucket",
    "RequestTimeTooSkewed": "set this machine's clock",
    "NoCredentialsError": f"set {KEYS}",
    "PartialCredentialsError": f"set both of {KEYS}",
    "EndpointConnectionError": "start the server, or correct AWS_ENDPOINT_URL",
    "ConnectTimeoutError": "let this machine through to it, or correct AWS_ENDPOINT_URL",
    "ResponseParserError": NO_S3,
    "ReadTimeoutError": "the server hangs: see its log and its load",
    "ConnectionClosedError": BROKE_OFF,
    "ResponseStreamingError": BROKE_OFF,
    "IncompleteReadError": BROKE_OFF,
}
"""What to do, by the code of the server's answer or the kind of the client's failure."""

Answer = TypeVar("Answer")


def patiently(action: Callable[[], Answer]) -> Answer:
    """What `action` returns; while it fails in a way that may pass, it is tried three times.

    boto3 repeats requests by itself, but within a tenth of a second, and never a transfer that
    broke off: a server that starts again would end a run.
    """
    for pause in PAUSES:
        try:
            return action()
        except Exception as error:
            if not _may_pass(error):
                raise
        time.sleep(pause)
    return action()


@contextmanager
def naming(what: str, hidden: str, shown: str) -> Iterator[None]:
    """Raise what boto3 raises in the block as one line: `what`, the reason, and the cure.

    Args:
        hidden: An address that must not be shown as it is; `shown` stands for it.

    Raises:
        ServiceError: The block failed.
    """
    from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415
    from botocore.parsers import ResponseParserError  # noqa: PLC0415
    from urllib3.exceptions import HTTPError  # noqa: PLC0415

    try:
        yield
    except (BotoCoreError, ClientError, ResponseParserError, HTTPError) as error:
        times = f", {len(PAUSES) + 1} attempts" if _may_pass(error) else ""
        reason = " ".join(_reason(error).replace(hidden, shown).split())
        raise ServiceError(f"{what} ({reason}{times}); {cure(error)}") from error


def cure(error: BaseException | None) -> str:
    """What to do about a failure."""
    code, status = _code(error), _status(error)
    if status == 507:
        return "the server has no room left: see its disk"
    if status >= 500:
        return "see the server's log and its free disk"
    if status == 403:
        return CURES.get(code, CURES["AccessDenied"])
    return CURES.get(code, "see the server's log")


def _may_pass(error: BaseException) -> bool:
    from botocore import exceptions  # noqa: PLC0415
    from urllib3.exceptions import HTTPError  # noqa: PLC0415

    passing = (
        *(exceptions.ConnectionError, exceptions.HTTPClientError, HTTPError),
        *(exceptions.IncompleteReadError, exceptions.FlexibleChecksumError),
    )
    return (
        isinstance(error, passing)
        or _status(error) >= 500
        or _status(error) == 429
        or _code(error) == "RequestTimeout"
    )


def _reason(error: BaseException) -> str:
    answer = getattr(error, "response", None)
    if not isinstance(answer, dict):
        return str(error)
    found = answer.get("Error", {})
    return f"{found.get('Code', '')} {found.get('Message', '')}".strip()


def _code(error: BaseException | None) -> str:
    answer = getattr(error, "response", None)
    found = answer.get("Error", {}).get("Code") if isinstance(answer, dict) else None
    return str(found or type(error).__name__)


def _status(error: BaseException | None) -> int:
    """The status that the server answered with, 0 if it did not answer."""
    answer = getattr(error, "response", None)
    facts = answer.get("ResponseMetadata", {}) if isinstance(answer, dict) else {}
    return int(facts.get("HTTPStatusCode", 0))
