"""A file of unknown origin is first opened where it can do no harm: in a process of its own.

The child has no environment but its libraries', an empty folder, and limits that the kernel keeps:
memory, processor time, sizes of files, open files. It parses and checks the bytes, makes a session
and a twin of them, runs both as they will be run (see `opening`) and says so in one line. Bytes
that make a parser or a kernel crash, hang or swell do so there. macOS does not enforce the limit
of memory; a system without the module `resource` has the limit of time alone.

    python -I -B -c CHILD <root of the packages> <name> <memory in B> <seconds> <what>  < file
"""

import json
import math
import os
import re
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import torch

from hardening.deployment.opening import ANY, NO_MEMORY, Opening, Tried, try_out
from hardening.errors import ModelError

CHILD = (
    "import sys; sys.path.insert(0, sys.argv[1]); "
    "from hardening.deployment.sandbox import child; child()"
)

MAX_FILE = 1 << 20
"""Bytes of the largest file that the child may write; its verdict is one."""

MAX_OPEN = 256
"""Files that the child may hold open: libraries, mostly."""

LIBRARY_VARIABLES = ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "PATH", "SYSTEMROOT")
"""All that the child inherits: what interpreter and libraries are found by."""

QUIET = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "LC_ALL": "C.UTF-8"}
"""What it is told besides: to compute on one core, and not to look for a GPU."""

READY = "ready"
"""What the child says when nothing was wrong."""


class Limits(NamedTuple):
    """What opening a file may take: seconds of wall time, bytes of memory above the libraries'."""

    seconds: float = 120
    memory: int = 4 << 30


LIMITS = Limits()


def open_once(data: bytes, name: str, what: Opening = ANY, limits: Limits = LIMITS) -> Tried:
    """Open ONNX `data` in a child process; what it ran there.

    Whether a twin can be made of it is for the caller to find out: here it must only be harmless.

    Raises:
        ModelError: The gate or ONNX Runtime refuses the bytes, or opening them takes more than
            `limits`, or crashes. The text starts with `name`.
    """
    with tempfile.TemporaryDirectory(prefix="opened-") as folder:
        verdict = Path(folder, "verdict")
        empty = Path(folder, "empty")
        empty.mkdir()
        kept = {key: os.environ[key] for key in LIBRARY_VARIABLES if key in os.environ}
        root = str(Path(__file__).parents[2])
        told = [root, name, str(limits.memory), str(math.ceil(limits.seconds))]
        told.append(what.model_dump_json(exclude_unset=True))
        try:
            with verdict.open("wb") as said:
                done = subprocess.run(  # noqa: S603  our own interpreter, no shell
                    [sys.executable, "-I", "-B", "-c", CHILD, *told],
                    input=data,
                    stdout=said,
                    stderr=subprocess.DEVNULL,
                    cwd=empty,
                    env=kept | {"HOME": str(empty), "TMPDIR": str(empty), **QUIET},
                    timeout=limits.seconds,
                    check=False,
                )
        except subprocess.TimeoutExpired as error:
            raise ModelError(_too_slow(name, limits)) from error
        return _judge(done.returncode, verdict.read_bytes(), name, limits)


def _judge(code: int, said: bytes, name: str, limits: Limits) -> Tried:
    """What the child ran if it ended as it should; what it says is as foreign as its file."""
    if code == -getattr(signal, "SIGXCPU", 0):
        raise ModelError(_too_slow(name, limits))
    if code < 0:
        raise ModelError(f"{name}: opening it crashed (signal {-code})")
    try:
        verdict = json.loads(said.splitlines()[-1])
        outcome, text = str(verdict["outcome"]), str(verdict["text"])
        tried = Tried.model_validate(verdict["tried"])
    except (ValueError, LookupError, TypeError) as error:
        raise ModelError(f"{name}: opening it ended with code {code} and no verdict") from error
    if outcome == "memory":
        size = f"{limits.memory / (1 << 30):g} GiB"
        raise ModelError(f"{name}: opening it took more than {size} of memory")
    if outcome != READY or code != 0:
        line = _line(text)
        raise ModelError(line if line.startswith(f"{name}: ") else f"{name}: {line}")
    return tried.model_copy(update={"refusal": _line(tried.refusal)})


def _line(text: str) -> str:
    return "".join(c if c.isprintable() else " " for c in text)[:600]


def _too_slow(name: str, limits: Limits) -> str:
    return f"{name}: opening it took more than {limits.seconds:g} s"


def child() -> None:
    """The body of the child process; ends it."""
    _, _, name, memory, seconds, what = sys.argv
    data = sys.stdin.buffer.read()
    tried = Tried(shape=())
    _limit(int(seconds))
    torch.set_num_threads(1)
    try:
        # Above what the libraries take, which are imported by now: that is not the file's.
        _limit_memory(int(memory))
        tried = try_out(data, Opening.model_validate_json(what))
        outcome, text = READY, ""
    except MemoryError:
        outcome, text = "memory", ""
    except Exception as error:  # noqa: BLE001  whatever it is, the parent is to hear of it
        line = " ".join(str(error).split())
        outcome = "memory" if NO_MEMORY.search(line) else "refused"
        text = line if isinstance(error, ModelError) else f"opening it failed: {line}"
    text = re.sub(r"^ONNX file \w{12}: ", f"{name}: ", text)
    verdict = {"outcome": outcome, "text": text, "tried": tried.model_dump()}
    print(json.dumps(verdict), flush=True)  # noqa: T201
    # Not through the destructors of libraries that the file may have confused.
    os._exit(0)


def _limit(seconds: int) -> None:
    resource = _resource()
    if resource is not None:
        for what, limit in (
            (resource.RLIMIT_CPU, seconds),
            (resource.RLIMIT_FSIZE, MAX_FILE),
            (resource.RLIMIT_NOFILE, MAX_OPEN),
            (resource.RLIMIT_CORE, 0),
        ):
            most = resource.getrlimit(what)[1]
            fits = limit if most == resource.RLIM_INFINITY else min(limit, most)
            # At the hard limit of time the kernel kills; at the soft one it says why.
            hard = most if what == resource.RLIMIT_CPU else fits
            resource.setrlimit(what, (fits, hard))


def _limit_memory(size: int) -> None:
    """Above what is mapped already, which only Linux says."""
    resource, mapped = _resource(), Path("/proc/self/statm")
    if resource is not None and mapped.exists():
        pages = int(mapped.read_text().split()[0])
        limit = pages * resource.getpagesize() + size
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _resource() -> ModuleType | None:
    try:
        import resource  # noqa: PLC0415
    except ModuleNotFoundError:
        return None
    return resource
