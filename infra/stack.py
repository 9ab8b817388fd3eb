"""Temper's services on this machine, without containers: PostgreSQL, S3, MLflow, Prefect, a worker.

    python -m infra.stack up        start them, wait until all are ready, say where they are
    python -m infra.stack down      end them; what they keep stays
    python -m infra.stack status    which of them run

Everything is kept in TEMPER_HOME/stack. One process, started by `up`, is the parent of all others;
it holds the lock of `supervisor.lock`, which the kernel drops when it dies, and on Linux the kernel
then ends its children, too.
"""

import argparse
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from hardening.errors import HardeningError, ServiceError
from infra.keeping import write_private
from tasks.settings import home
from tasks.supervisor import lock

STARTUP = 300.0
"""Seconds until `up` gives up: a first start builds three databases."""

SHUTDOWN = 60.0
"""Seconds that `down` waits before it ends the parent by force."""

POLL = 0.1
"""Seconds between two looks."""


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit code: 0, or 1 when something does not run."""
    parser = argparse.ArgumentParser("python -m infra.stack", description="services, locally")
    parser.add_argument("command", choices=["up", "down", "status"])
    parser.add_argument("--json", action="store_true", help="print JSON on standard output")
    options = parser.parse_args(arguments)
    folder = home() / "stack"
    try:
        if options.command == "up":
            _up(folder)
        elif options.command == "down":
            return _down(folder)
    except HardeningError as error:
        print(f"stack: {error}", file=sys.stderr)
        return 1
    state = _state(folder)
    print(json.dumps(state, indent=1) if options.json else _table(folder, state))
    return 0 if state and all(each["running"] for each in state["services"].values()) else 1


def running(folder: Path) -> int | None:
    """The process id of the parent of the stack in `folder`; None when it does not run."""
    path = folder / "supervisor.lock"
    if not path.exists():
        return None
    with path.open("r+") as file:
        return None if lock(file, fcntl.LOCK_SH) else int(file.read())


def _up(folder: Path) -> None:
    """Start the parent and wait until it says that all is there.

    Raises:
        ServiceError: A service did not start; the text ends with what it said.
    """
    started = time.monotonic()
    parent: subprocess.Popen[bytes] | None = None
    while not (_state(folder) or {}).get("ready"):
        if running(folder) is None:
            if parent is not None and parent.poll() is not None:
                raise ServiceError((folder / "failure").read_text())
            parent = parent or _spawn(folder)
        if time.monotonic() - started > STARTUP:
            raise ServiceError(f"not ready within {STARTUP:.0f} s; see {folder / 'log'}")
        time.sleep(POLL)


def _spawn(folder: Path) -> subprocess.Popen[bytes]:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "log").mkdir(mode=0o700, exist_ok=True)
    write_private(folder / "failure", "ended without a word, see log/supervisor")
    with (folder / "log" / "supervisor").open("wb") as log:
        return subprocess.Popen(  # noqa: S603  our own interpreter and file
            [sys.executable, "-m", "infra.supervision", str(folder)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,  # Ctrl-C in a terminal is for the command, not for the stack
        )


def _down(folder: Path) -> int:
    pid = running(folder)
    if pid is None:
        print("stack: does not run")
        return 0
    os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + SHUTDOWN
    while running(folder) is not None:
        if time.monotonic() > deadline:
            os.kill(pid, signal.SIGKILL)
            print(f"stack: did not end within {SHUTDOWN:.0f} s and was killed", file=sys.stderr)
            return 1
        time.sleep(POLL)
    print("stack: ended")
    return 0


def _state(folder: Path) -> dict[str, Any] | None:
    """What the parent says of its services; None when there is no parent."""
    path = folder / "state.json"
    if running(folder) is None or not path.exists():
        return None
    state: dict[str, Any] = json.loads(path.read_text())
    return state


def _table(folder: Path, state: dict[str, Any] | None) -> str:
    if state is None:
        return "stack: does not run; `make stack` starts it"
    lines = [
        f"{name:<11}{each['address']:<30}{'' if each['running'] else 'ENDED, see '}"
        f"{'' if each['running'] else each['log']}".rstrip()
        for name, each in state["services"].items()
    ]
    if state["ready"]:
        lines += [f"ready after {state['seconds']:.1f} s; `make stack-down` ends it", ""]
        lines += [f"  . {folder / 'env.sh'}", "  temper doctor"]
        lines += ["  prefect --no-prompt deploy --all --prefect-file infra/prefect.yaml"]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
