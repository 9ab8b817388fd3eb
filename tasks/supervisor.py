"""Keeps one Prefect server alive for as long as somebody uses it; a program of its own.

    python supervisor.py run FOLDER LINGER         the supervisor of the server kept in FOLDER
    python supervisor.py serve SOCKET PARENT       the server itself, started by the supervisor

Everything hangs on locks (flock), which the kernel drops when their holder dies, however it dies:

    FOLDER/users        shared, by everyone who uses the server
    FOLDER/supervisor   exclusive, by the supervisor: there is one
    FOLDER/address      exclusive, by the supervisor; written when the server answers, and true
                        for as long as it is locked

The supervisor ends the server when it gets `users` exclusively for LINGER seconds. The server ends
when the pipe from its supervisor closes. Only the standard library is imported here, so that the
supervisor is small and starts in milliseconds.
"""

import fcntl
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import IO

POLL = 0.1
"""Seconds between two looks at the server and its users."""

STARTUP = 120.0
"""Seconds a server may take until it answers: a first start builds the database."""

FAREWELL = 10.0
"""Seconds between asking a server to end and ending it."""

LOG = "server.log"


def lock(file: IO[str], kind: int) -> bool:
    """Take a lock (fcntl.LOCK_SH or LOCK_EX) without waiting; whether it was free."""
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def run(folder: Path, linger: float) -> int:
    """Start the server and stay until nobody has used it for `linger` seconds; the exit code."""
    with (folder / "supervisor").open("a") as mine:
        if not lock(mine, fcntl.LOCK_EX):
            return 0  # there is a supervisor already
        (folder / "address").unlink(missing_ok=True)
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
        server, port, pipe = _start(folder)
        try:
            return _watch(folder, server, port, linger)
        finally:
            (folder / "address").unlink(missing_ok=True)
            server.terminate()
            try:
                server.wait(FAREWELL)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()
            os.close(pipe)


def serve(listener: int, parent: int) -> None:
    """Be the Prefect server on an open socket until told to end, or until the parent is gone."""
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    import uvicorn  # noqa: PLC0415  seconds, and only the server needs them
    from prefect.server.api.server import create_app  # noqa: PLC0415

    config = uvicorn.Config(
        create_app(final=True), log_level="warning", timeout_graceful_shutdown=2
    )
    uvicorn.Server(config).run(sockets=[socket.socket(fileno=listener)])


def last_words(folder: Path) -> str:
    """The last error in the server's log, or its last line, after the log's name."""
    log = folder / LOG
    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    said = [line.strip() for line in lines if line.strip()]
    errors = [line for line in said if re.match(r"[\w.]+(Error|Exception):", line)]
    return f"{log} ends with: {(errors or said)[-1]}" if said else f"{log} is empty"


def _start(folder: Path) -> tuple[subprocess.Popen[bytes], int, int]:
    """The server's process, its port, and the pipe whose closing ends it."""
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    read, write = os.pipe()
    address = f"http://127.0.0.1:{port}"
    settings = {
        "PREFECT_HOME": str(folder),
        "PREFECT_API_DATABASE_CONNECTION_URL": f"sqlite+aiosqlite:///{folder / 'prefect.db'}",
        "PREFECT_SERVER_API_HOST": "127.0.0.1",
        "PREFECT_SERVER_API_PORT": str(port),
        # Pages of other sites, open in the same browser, have no business here.
        "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": address,
        "PREFECT_UI_API_URL": f"{address}/api",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
        "PREFECT_LOGGING_LEVEL": "WARNING",
        "PREFECT_SERVER_LOGGING_LEVEL": "WARNING",
        "PREFECT_LOGGING_COLORS": "false",
        "DO_NOT_TRACK": "true",
    }
    # Settings of the user's other Prefect must not leak into this server.
    own = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    command = [sys.executable, "-P", __file__, "serve", str(listener.fileno()), str(read)]
    with (folder / LOG).open("wb") as log, listener:
        server = subprocess.Popen(  # noqa: S603  our own interpreter and file
            command,
            cwd=folder,
            env={**own, **settings},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=(listener.fileno(), read),
        )
    os.close(read)
    return server, port, write


def _watch(folder: Path, server: subprocess.Popen[bytes], port: int, linger: float) -> int:
    started = last_used = time.monotonic()
    published: IO[str] | None = None
    with (folder / "users").open("a") as users:
        while server.poll() is None:
            now = time.monotonic()
            if published is None and _answers(port):
                published = _publish(folder, port)
            if published is None and now - started > STARTUP:
                return 1
            if not lock(users, fcntl.LOCK_EX):
                last_used = now
            elif now - last_used > linger:
                return 0  # with the lock held: whoever comes now waits until this server is gone
            else:
                fcntl.flock(users, fcntl.LOCK_UN)
            time.sleep(POLL)
    return 1


def _answers(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/health", timeout=1) as answer:
            return bool(answer.status == 200)
    except (OSError, urllib.error.URLError):
        return False


def _publish(folder: Path, port: int) -> IO[str]:
    """Write the address, already locked, so that a reader never sees one that is not true."""
    temporary = folder / "address.new"
    file = temporary.open("w")
    fcntl.flock(file, fcntl.LOCK_EX)
    file.write(f"http://127.0.0.1:{port}/api")
    file.flush()
    temporary.replace(folder / "address")
    return file


def _end_with(parent: int) -> None:
    """End this process when the other end of the pipe closes; nothing is ever written to it."""
    os.read(parent, 1)
    os._exit(0)


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(int(sys.argv[2]), int(sys.argv[3]))
    else:
        sys.exit(run(Path(sys.argv[2]), float(sys.argv[3])))
