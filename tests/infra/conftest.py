"""The receiver as it runs, and what stands where Prefect would: it records what it is told."""

import json
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple

import pytest
import uvicorn

from tasks.receiver import configuration

SECRET = "0123456789abcdef-of-the-tests"


class Listener(NamedTuple):
    """Where something listens; `told` is what it was sent."""

    port: int
    told: list


@pytest.fixture(scope="module")
def receiver() -> Iterator[int]:
    """The port of the receiver as it is served."""
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(configuration(SECRET))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    yield listener.getsockname()[1]
    server.should_exit = True
    thread.join(10)


@pytest.fixture
def events(monkeypatch) -> Iterator[Listener]:
    """Takes what Prefect's API would take; every request to it is recorded."""
    told = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            told.append((self.path, json.loads(body)))
            self.send_response(204)
            self.end_headers()

        def do_GET(self) -> None:
            self.send_response(422)
            self.end_headers()
            self.wfile.write(b'{"detail": "CSRF protection is disabled."}')

        def log_message(self, *_arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield Listener(server.server_address[1], told)
    server.shutdown()
    thread.join(10)
    server.server_close()
