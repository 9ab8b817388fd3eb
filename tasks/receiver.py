"""The small web service that turns MLflow's webhooks into Prefect events.

    POST /mlflow    a delivery of MLflow: 202 told to Prefect, 200 nothing to tell, else refused
    GET /health     200

Prefect out of reach is a 503, and MLflow tries again. What is lost in spite of that (MLflow keeps
deliveries in memory only) is found by the flow `sweep`.
"""

import asyncio
import logging
import os
import socket
import time

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from uvicorn.protocols.http.h11_impl import H11Protocol

from hardening.errors import ConfigError, ServiceError
from tasks import events, webhook
from tasks.settings import PREFECT_API, webhook_secret

BODY_SECONDS = 10.0
"""Seconds that a sender may take for its body."""

HEAD_SECONDS = 10.0
"""Seconds from the connection to the end of the request's head."""

AT_A_TIME = 64
"""Connections that are served at a time; more get a 503 and come again."""

log = logging.getLogger("temper.receiver")


def application(secret: str) -> Starlette:
    """The service as an ASGI application."""
    seen = webhook.Seen()

    async def receive(request: Request) -> Response:
        envelope = webhook.open_envelope(request.headers, time.time())
        body = await _body(request)
        webhook.verify(envelope, body, secret)
        with seen.once(envelope.delivery, time.time()):
            version = webhook.read_version(body)
            if version is None:
                return JSONResponse({"ignored": "not the creation of a model version"})
            event = events.created(version.name, version.version)
            try:
                await events.deliver(event)
            except ServiceError as error:
                raise HTTPException(503, str(error)) from error
        log.info("%r version %d: told to Prefect", version.name, version.version)
        return JSONResponse({"event": str(event["id"])}, 202)

    return Starlette(
        routes=[
            Route("/mlflow", receive, methods=["POST"]),
            Route("/health", _health, methods=["GET"]),
        ],
        exception_handlers={HTTPException: _refuse},
    )


class OneRequest(H11Protocol):
    """HTTP with a deadline for the head: uvicorn itself waits for a first request for ever."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Give the sender some seconds."""
        super().connection_made(transport)
        self.loop.call_later(HEAD_SECONDS, self._give_up)

    def _give_up(self) -> None:
        if self.cycle is None:
            self.transport.close()


def configuration(secret: str) -> uvicorn.Config:
    """How the service is served: one request for each connection, and none that is waited for."""
    return uvicorn.Config(
        application(secret),
        http=OneRequest,
        headers=[("connection", "close")],
        log_level="warning",
        access_log=False,
        limit_concurrency=AT_A_TIME,
        timeout_graceful_shutdown=5,
        server_header=False,
    )


def serve(host: str, port: int) -> None:
    """Serve until told to end.

    Raises:
        ConfigError: No secret or no Prefect in the environment, or the address is not free.
    """
    secret = webhook_secret()
    if not os.environ.get(PREFECT_API):
        raise ConfigError(f"{PREFECT_API}: got nothing, expected the Prefect server to tell")
    try:
        listener = socket.create_server((host, port))
    except OSError as error:
        raise ConfigError(f"{host}:{port}: cannot be listened on ({error.strerror})") from error
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(name)s %(message)s"))
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False
    log.info("listening on %s:%d", host, listener.getsockname()[1])
    with listener:
        uvicorn.Server(configuration(secret)).run(sockets=[listener])


async def _body(request: Request) -> bytes:
    """The body; a sender that sends more than allowed, or too slowly, is not listened to."""
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for chunk in request.stream():
                body += chunk
                if len(body) > webhook.MAX_BODY:
                    raise HTTPException(413, f"body: expected at most {webhook.MAX_BODY} B")
    except ClientDisconnect:
        raise HTTPException(400, "body: ended before its length") from None
    except TimeoutError:
        raise HTTPException(408, f"body: not there within {BODY_SECONDS:.0f} s") from None
    return bytes(body)


async def _health(_request: Request) -> Response:
    return JSONResponse({"status": "ok"})


async def _refuse(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    sender = request.client.host if request.client else "unknown"
    log.warning("%s from %s: %d %s", request.url.path, sender, error.status_code, error.detail)
    # Without its body read to the end the connection is of no further use.
    headers = {**(error.headers or {}), "connection": "close"}
    return JSONResponse({"refused": error.detail}, error.status_code, headers)
