"""What makes a delivery of MLflow's model registry believable.

MLflow signs `<delivery id>.<timestamp>.<body>` with HMAC-SHA256 and sends the result as
`v1,<base64>`. Everything here is cheap and touches nothing outside; a refusal is the HTTP status
that tells MLflow whether to try again (5xx) or not (4xx).
"""

import base64
import hashlib
import hmac
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Annotated, NamedTuple

from pydantic import BaseModel, Field, ValidationError
from starlette.exceptions import HTTPException

TOLERANCE = 300
"""Seconds by which the sender's clock may differ; MLflow's own repeats take less."""

MAX_BODY = 1 << 20
"""Bytes of the largest delivery that is read; descriptions and tags are part of it."""

REMEMBERED = 10_000
"""Delivery ids that are remembered at most; more than MLflow sends in the tolerance."""


class Envelope(NamedTuple):
    """The headers of a delivery; nothing of them is believed yet."""

    delivery: str
    timestamp: str
    signature: str


class Version(BaseModel):
    """The model version that a delivery is about."""

    name: Annotated[str, Field(min_length=1, max_length=256)]
    version: Annotated[int, Field(gt=0)]


class _Delivery(BaseModel):
    entity: str
    action: str


class _Created(BaseModel):
    data: Version


def open_envelope(headers: Mapping[str, str], now: float) -> Envelope:
    """The headers, if it is worth reading the body.

    Args:
        headers: By lower-case name.
        now: Seconds since 1970.

    Raises:
        HTTPException: 415 not JSON, 413 too long, 400 a header is missing or malformed, 401 signed
            too long ago, or too far ahead.
    """
    if headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise HTTPException(415, "content-type: expected application/json")
    length = headers.get("content-length", "0")
    if not _is_number(length):
        raise HTTPException(400, "content-length: expected a number")
    if int(length) > MAX_BODY:
        raise HTTPException(413, f"body: got {length} B, expected at most {MAX_BODY} B")
    envelope = Envelope(
        headers.get("x-mlflow-delivery-id", ""),
        headers.get("x-mlflow-timestamp", ""),
        headers.get("x-mlflow-signature", ""),
    )
    if not 0 < len(envelope.delivery) <= 128:
        raise HTTPException(400, "x-mlflow-delivery-id: expected 1 to 128 characters")
    if not _is_number(envelope.timestamp):
        raise HTTPException(400, "x-mlflow-timestamp: expected seconds since 1970")
    if not envelope.signature.startswith("v1,"):
        raise HTTPException(401, "x-mlflow-signature: expected v1,<base64>")
    if abs(now - int(envelope.timestamp)) > TOLERANCE:
        raise HTTPException(401, f"x-mlflow-timestamp: not within {TOLERANCE} s of our clock")
    return envelope


def verify(envelope: Envelope, body: bytes, secret: str) -> None:
    """Compare the signature in constant time.

    Raises:
        HTTPException: 401, it is not the one of this delivery.
    """
    signed = f"{envelope.delivery}.{envelope.timestamp}.".encode("latin-1") + body
    expected = base64.b64encode(hmac.digest(secret.encode(), signed, hashlib.sha256))
    # Bytes: compare_digest raises for text that is not ASCII, and a sender may send such.
    if not hmac.compare_digest(expected, envelope.signature[3:].encode("latin-1")):
        raise HTTPException(401, "x-mlflow-signature: not the one of this delivery")


def read_version(body: bytes) -> Version | None:
    """The version that was created; None when the delivery tells something else.

    Raises:
        HTTPException: 400 not JSON, 422 not of the expected shape.
    """
    try:
        told = _Delivery.model_validate_json(body)
        if (told.entity, told.action) != ("model_version", "created"):
            return None
        return _Created.model_validate_json(body).data
    except ValidationError as error:
        first = error.errors(include_input=False)[0]  # what was sent is not sent back, nor logged
        field = ".".join(str(part) for part in ("body", *first["loc"]))
        status = 400 if first["type"] == "json_invalid" else 422
        raise HTTPException(status, f"{field}: {first['msg']}") from error


class Seen:
    """The ids of deliveries that were handled, for as long as their signature is of any use.

    Forgotten after a restart, or when there are more: what is handled twice then is one event all
    the same, because the event's own id follows from the version.
    """

    def __init__(self) -> None:
        self._until: OrderedDict[str, float] = OrderedDict()

    @contextmanager
    def once(self, delivery: str, now: float) -> Iterator[None]:
        """Handle a delivery in the block; one whose block failed may come again.

        Raises:
            HTTPException: 409, it was handled already, or is just now.
        """
        while self._until and next(iter(self._until.values())) < now:
            self._until.popitem(last=False)
        if delivery in self._until:
            raise HTTPException(409, "x-mlflow-delivery-id: was delivered before")
        if len(self._until) >= REMEMBERED:
            self._until.popitem(last=False)
        # A timestamp may be ahead of our clock by the tolerance, and stays good for it once more.
        self._until[delivery] = now + 2 * TOLERANCE
        try:
            yield
        except BaseException:
            self._until.pop(delivery, None)
            raise


def _is_number(text: str) -> bool:
    # isdecimal alone is true for digits of other scripts, int() of a long text is slow.
    return text.isascii() and text.isdecimal() and len(text) <= 12
