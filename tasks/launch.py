"""One training in several processes of this machine, started by torch's own launcher."""

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from pydantic_core import to_jsonable_python

from hardening import errors
from hardening.errors import BrokenPromise, HardeningError
from tasks.engines import Work

PROCESSES = "processes"
"""The setting of a step that says how many processes do it together."""

FAREWELL = 20
"""Seconds between asking the processes to end and ending them."""


def launch(work: Work, key: str, say: Callable[[str], None]) -> tuple[dict[str, bytes], str]:
    """Do `work` in as many processes as it says; what the first leaves, and its last numbers.

    They meet in a file and talk over the loopback device: nothing listens to the network.

    Raises:
        HardeningError: What one of them raised, or that one ended without a word.
    """
    from tasks import ranks  # noqa: PLC0415  it imports this one's caller

    with tempfile.TemporaryDirectory(prefix="temper-ranks-") as name:
        folder = Path(name)
        settings = {**work.settings, PROCESSES: 1}
        request = work._replace(settings=settings)._asdict() | {"key": key, "owner": os.getpid()}
        (folder / ranks.REQUEST).write_text(json.dumps(to_jsonable_python(request)))
        code = _run(_command(folder, work.settings[PROCESSES], ranks.__name__), folder, say)
        if code:
            raise _error(folder, work, code)
        outputs = {path.name: path.read_bytes() for path in (folder / ranks.OUTPUTS).iterdir()}
        return outputs, (folder / ranks.LAST).read_text()


def _command(folder: Path, processes: int, module: str) -> list[str]:
    return [
        *(sys.executable, "-m", "torch.distributed.run", "--nnodes=1", "--max-restarts=0"),
        *(f"--nproc-per-node={processes}", "--rdzv-backend=c10d", "--rdzv-conf=store_type=file"),
        *(f"--rdzv-endpoint={folder / 'launcher'}", "-m", module, str(folder)),
    ]


def _run(command: list[str], folder: Path, say: Callable[[str], None]) -> int:
    """Run a command, say its lines and return its exit code; it ends when this is interrupted."""
    root = str(Path(__file__).parents[1])
    paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {"GLOO_SOCKET_IFNAME": "lo", **os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    with (folder / "stderr").open("wb") as log:
        process = subprocess.Popen(  # noqa: S603  our own interpreter, no shell
            command,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            start_new_session=True,
        )
    assert process.stdout is not None
    try:
        for line in process.stdout:
            say(line.rstrip("\n"))
        return process.wait()
    finally:
        _end(process)


def _end(process: "subprocess.Popen[str]") -> None:
    """The launcher ends its processes; they end without it, too."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(FAREWELL)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    if process.stdout is not None:
        process.stdout.close()


def _error(folder: Path, work: Work, code: int) -> HardeningError:
    """What a process raised; of several, not that another one was gone."""
    told = [json.loads(path.read_text()) for path in sorted(folder.glob("error-*.json"))]
    ours = [(kind, text) for kind, text in told if hasattr(errors, kind)]
    if ours:
        kind, text = ours[0]
        error: HardeningError = getattr(errors, kind)(text)
        return error
    processes = work.settings[PROCESSES]
    kind, text = told[0] if told else ("exit code", str(code))
    return BrokenPromise(f"{work.label}: one of {processes} processes ended ({kind}: {text})")
