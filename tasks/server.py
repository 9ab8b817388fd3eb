"""The Prefect API that a command uses: the one in the environment, or a server of our own.

Our own server needs no installation and leaves no orphan: `tasks/supervisor.py` starts it for the
first user, lets later ones share it, and ends it soon after the last one is gone. Call `begin()`
first and import torch and prefect after it: the server takes seconds to start and so do they.
"""

import fcntl
import logging
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import IO
from urllib.parse import urlsplit

from hardening.errors import ConfigError, ServiceError
from tasks import settings, supervisor

LINGER = 20.0
"""Seconds that our own server outlives its last user: the next command finds it warm."""

STARTUP = supervisor.STARTUP + 10
"""Seconds to wait for a server of our own, one that is just ending included."""

PROBE = 5.0
"""Seconds that a given server may take to answer; it is asked twice."""


class Handle:
    """A Prefect API on its way; `wait` for it, and `close` when it is no longer used."""

    def __init__(self) -> None:
        self._given = os.environ.get(settings.PREFECT_API, "")
        self._folder = settings.home() / "prefect"
        self._users: IO[str] | None = None
        self._starter: subprocess.Popen[bytes] | None = None
        with ExitStack() as undo:
            undo.enter_context(settings.environment(settings.QUIET, replace=False))
            if not self._given:
                self._users = undo.enter_context(_users(self._folder))
                own = {"PREFECT_HOME": str(self._folder)}
                undo.enter_context(settings.environment(own, replace=True))
                self._advance()
            self._undo = undo.pop_all()

    def wait(self) -> str:
        """The address of the API, once it answers; this process then uses it.

        Raises:
            ServiceError: The given server does not answer, or our own does not start; the text
                names the address, or ends with the last line of the server's log.
        """
        url = self._given or self._await_own()
        self._undo.enter_context(settings.environment({settings.PREFECT_API: url}, replace=True))
        from prefect.settings import (  # noqa: PLC0415  a second, and the server starts meanwhile
            PREFECT_API_URL,
            PREFECT_FLOWS_HEARTBEAT_FREQUENCY,
            temporary_settings,
        )

        self._undo.enter_context(temporary_settings({PREFECT_API_URL: url}))
        for worker in ("EventsWorker", "APILogWorker"):
            # When a process ends they warn that they still send something; they do send it.
            logging.getLogger(worker).setLevel(logging.ERROR)
        if self._given:
            _probe(url)
        else:
            # Every flow ends with a second of waiting for its heartbeat. A shared server needs it
            # to find runs whose process was killed; ours ends with its users.
            self._undo.enter_context(temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}))
        return url

    def close(self) -> None:
        """Stop using the API and restore the settings of this process."""
        self._undo.close()

    def __enter__(self) -> "Handle":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _await_own(self) -> str:
        deadline = time.monotonic() + STARTUP
        while (url := self._advance()) is None:
            if time.monotonic() > deadline:
                raise self._failure(f"no answer in {STARTUP:.0f} s")
            time.sleep(supervisor.POLL / 2)
        return url

    def _advance(self) -> str | None:
        """Do what can be done now without waiting; the address when the server is there."""
        assert self._users is not None
        # Not free only while a supervisor ends the server that we must not use any more.
        if not supervisor.lock(self._users, fcntl.LOCK_SH):
            return None
        url = _address(self._folder)
        if url is not None:
            return url
        if self._starter is not None and (code := self._starter.poll()):
            raise self._failure(f"ended while starting, code {code}")
        waiting = self._starter is not None and self._starter.poll() is None
        if not waiting and not _locked(self._folder / "supervisor"):
            self._starter = _spawn(self._folder)
        return None

    def _failure(self, what: str) -> ServiceError:
        return ServiceError(f"Prefect server: {what}; {supervisor.last_words(self._folder)}")


def begin() -> Handle:
    """Quieten Prefect and MLflow and make sure that a server is starting; returns at once.

    Raises:
        ConfigError: Our own server cannot keep its files where it should.
    """
    return Handle()


@contextmanager
def api() -> Iterator[str]:
    """The address of the Prefect API that this process uses inside the block."""
    with begin() as handle:
        yield handle.wait()


def _address(folder: Path) -> str | None:
    """The published address, if its supervisor is alive."""
    try:
        with (folder / "address").open() as file:
            return None if supervisor.lock(file, fcntl.LOCK_SH) else file.read()
    except FileNotFoundError:
        return None


def _locked(path: Path) -> bool:
    with path.open("a") as file:
        return not supervisor.lock(file, fcntl.LOCK_SH)


def _spawn(folder: Path) -> subprocess.Popen[bytes]:
    linger = os.environ.get(settings.SERVER_LINGER) or str(LINGER)
    command = [sys.executable, "-P", supervisor.__file__, "run", str(folder), linger]
    return subprocess.Popen(  # noqa: S603  our own interpreter and file
        command,
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C in a terminal is for the command, not for the server
    )


@contextmanager
def _users(folder: Path) -> Iterator[IO[str]]:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / "users").open("a")
    except OSError as error:
        raise ConfigError(
            f"{folder}: cannot be written ({error.strerror}), set {settings.HOME} to a folder "
            "that this user may write to"
        ) from error
    with file:
        yield file


def _probe(url: str) -> None:
    from prefect.client.orchestration import get_client  # noqa: PLC0415
    from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, temporary_settings  # noqa: PLC0415

    with (
        temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 1}),
        get_client(httpx_settings={"timeout": PROBE}, sync_client=True) as client,
    ):
        error = client.api_healthcheck()
    if error is not None:
        host = urlsplit(url)._replace(netloc=urlsplit(url).netloc.rpartition("@")[2]).geturl()
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ServiceError(f"{settings.PREFECT_API} {host}: does not answer ({reason})") from error
