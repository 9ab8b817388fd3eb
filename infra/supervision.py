"""The parent of all services of the stack; started by `infra.stack`, alone in its session.

python -m infra.supervision FOLDER
"""

import ctypes
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from hardening.errors import HardeningError, ServiceError
from infra import postgres, services
from infra.keeping import Kept, keep, write_private
from infra.services import Service
from tasks.supervisor import lock

STARTUP = 180.0
"""Seconds for one service: the machine may be busy, and MLflow's first start is long."""

FAREWELL = 20.0
"""Seconds between asking a service to end and ending it."""

POLL = 0.1
"""Seconds between two looks at the services."""


class Stack:
    """The services that were started, in that order, and the file that tells of them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.started = time.monotonic()
        self.seconds: float | None = None
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.addresses: dict[str, str] = {}

    def start(self, kept: Kept, *wanted: Service) -> None:
        """Start services at the same time and wait until all of them are ready."""
        for service in wanted:
            port = kept.ports["s3" if service.name == "seaweedfs" else service.name]
            self.addresses[service.name] = f"127.0.0.1:{port}"
            self.processes[service.name] = _spawn(service, self.log(service.name))
            self.tell()
        for service in wanted:
            self._await(service)

    def tell(self) -> None:
        """Write what runs, for `up` and `status`."""
        state: dict[str, Any] = {
            "ready": self.seconds is not None,
            "seconds": self.seconds,
            "services": {
                name: {
                    "pid": process.pid,
                    "address": self.addresses[name],
                    "running": process.poll() is None,
                    "log": str(self.log(name)),
                }
                for name, process in self.processes.items()
            },
        }
        write_private(self.folder / "state.json", json.dumps(state))

    def watch(self) -> NoReturn:
        """Stay until told to end; a service that ends is told, and not started again."""
        self.seconds = time.monotonic() - self.started
        self.tell()
        alive = self._alive()
        while True:
            time.sleep(POLL)
            if alive != (alive := self._alive()):
                self.tell()

    def stop(self) -> None:
        """End all services, the last one first."""
        for name, process in reversed(self.processes.items()):
            if process.poll() is None:
                process.send_signal(signal.SIGINT if name == "postgres" else signal.SIGTERM)
                try:
                    process.wait(FAREWELL)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()

    def log(self, name: str) -> Path:
        """Where a service writes what it has to say."""
        return self.folder / "log" / name

    def _alive(self) -> list[str]:
        return [name for name, process in self.processes.items() if process.poll() is None]

    def _await(self, service: Service) -> None:
        deadline = time.monotonic() + STARTUP
        while (why := _missing(service.ready)) is not None:
            code = self.processes[service.name].poll()
            if code is not None:
                raise ServiceError(f"{service.name}: ended with {code}; {self._words(service)}")
            if time.monotonic() > deadline:
                raise ServiceError(f"{service.name}: not ready in {STARTUP:.0f} s ({why})")
            time.sleep(POLL)

    def _words(self, service: Service) -> str:
        lines = self.log(service.name).read_text(errors="replace").split("\n")
        said = [line.strip() for line in lines if line.strip()]
        return f"{self.log(service.name)} ends with: {said[-1] if said else 'nothing'}"


def run(folder: Path) -> int:
    """Start everything and stay; the exit code."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "supervisor.lock").open("a+") as mine:
        if not lock(mine, fcntl.LOCK_EX):
            return 0  # there is one already
        (folder / "state.json").unlink(missing_ok=True)
        mine.truncate(0)
        mine.write(str(os.getpid()))
        mine.flush()
        for kind in (signal.SIGTERM, signal.SIGINT):
            signal.signal(kind, lambda *_: sys.exit(0))
        stack = Stack(folder)
        try:
            _start(stack, keep(folder))
            stack.watch()
        except (HardeningError, OSError) as error:
            write_private(folder / "failure", str(error))
            return 1
        finally:
            for kind in (signal.SIGTERM, signal.SIGINT):
                signal.signal(kind, signal.SIG_IGN)  # a second one must not leave half of them
            stack.stop()


def _start(stack: Stack, kept: Kept) -> None:
    postgres.initialise(stack.folder / "postgres", kept.secrets.postgres)
    stack.start(kept, services.database(kept), services.storage(kept))
    stack.start(
        kept, services.tracking(kept), services.orchestration(kept), services.receiver(kept)
    )
    prepared = subprocess.run(  # noqa: S603  our own interpreter and file
        [sys.executable, "-m", "infra.setup", f"{kept.url('receiver')}/mlflow"],
        env={**services.python_environment(), **kept.user_environment()},
        cwd=services.ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if prepared.returncode:
        raise ServiceError(f"infra.setup: {prepared.stderr.strip().splitlines()[-1]}")
    stack.start(kept, services.worker(kept))


def _spawn(service: Service, log: Path) -> subprocess.Popen[bytes]:
    with log.open("wb") as output:
        return subprocess.Popen(  # noqa: S603  programs of ours, with arguments of ours
            service.command,
            env=service.environment,
            cwd=services.ROOT if service.user is None else "/",
            user=service.user,
            group=service.user and _group(service.user),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            preexec_fn=_end_with_parent(service.stop),  # noqa: PLW1509  we have no threads
        )


def _group(user: str) -> int:
    import pwd  # noqa: PLC0415

    return pwd.getpwnam(user).pw_gid


def _end_with_parent(by: signal.Signals) -> Callable[[], None] | None:
    """On Linux, lets the kernel end a child when this process is killed."""
    if sys.platform != "linux":
        return None
    library = ctypes.CDLL(None)
    return lambda: library.prctl(1, int(by)) and None  # 1: PR_SET_PDEATHSIG


def _missing(ready: Callable[[], None]) -> str | None:
    """Why a service is not ready; None when it is."""
    try:
        ready()
    except Exception as error:  # noqa: BLE001  whatever its client raises: it is asked again
        return f"{type(error).__name__}: {error}".splitlines()[0]
    return None


if __name__ == "__main__":
    sys.exit(run(Path(sys.argv[1])))
