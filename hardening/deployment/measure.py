"""How long the shipped bytes take, and how much memory.

Shapes: C channels, H x W pixels.
"""

import subprocess
import sys
from collections.abc import Sequence
from time import perf_counter

import numpy as np
import onnx
import torch

from hardening.deployment import footprint
from hardening.deployment.contract import prepare
from hardening.deployment.session import Session
from hardening.deployment.signature import fixed_batch
from hardening.errors import ModelError
from hardening.evidence import Latency, Memory
from hardening.threat import Model

LEAST, MOST = 10, 2000
"""Calls timed at a batch size, whatever the time budget."""

PATIENCE = 120.0
"""Seconds that a few calls in a process of their own may take."""


def latency(
    session: Session,
    shape: tuple[int, int, int],
    batches: Sequence[int] = (1, 8, 32),
    *,
    seconds: float = 1.0,
    warmups: int = 3,
) -> list[Latency]:
    """Time of one call in ms (median, 95th percentile) and images per second, at each batch size.

    The bytes of `session` are run anew with a single thread, so that the number does not depend on
    how many processors the machine has.

    Args:
        shape: (C, H, W) of one image.
        seconds: Time spent at each batch size, more only if `LEAST` calls need more.
        warmups: Calls before the clock starts.
    """
    single = Session(session.data, threads=1)
    return [_measure(single, shape, batch, seconds, warmups) for batch in batches]


def latency_inside(
    model: Model,
    shape: tuple[int, int, int],
    batches: Sequence[int] = (1, 8, 32),
    *,
    seconds: float = 1.0,
    warmups: int = 3,
) -> list[Latency]:
    """The same of a model that runs in this process, by torch on a single thread of it.

    Args:
        model: Images (B, C, H, W) to one answer.
        shape: (C, H, W) of one image.
        seconds: Time spent at each batch size, more only if `LEAST` calls need more.
        warmups: Calls before the clock starts.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.no_grad():
            return [_measure(model, shape, batch, seconds, warmups) for batch in batches]
    finally:
        torch.set_num_threads(threads)


def _measure(
    model: Model, shape: tuple[int, int, int], batch: int, seconds: float, warmups: int
) -> Latency:
    x = torch.full((batch, *shape), 0.5)
    for _ in range(warmups):
        model(x)
    times: list[float] = []
    while len(times) < LEAST or (sum(times) < seconds and len(times) < MOST):
        start = perf_counter()
        model(x)
        times.append(perf_counter() - start)
    p50, p95 = (1000 * float(np.percentile(times, share)) for share in (50, 95))
    throughput = batch * len(times) / sum(times)
    return Latency(batch=batch, p50_ms=p50, p95_ms=p95, images_per_second=throughput)


def memory(session: Session, shape: tuple[int, int, int], batch: int = 32) -> Memory | None:
    """Memory that a process needs to load and run the session's file on one thread; Linux only.

    The rise of the peak of resident memory over what the process takes before it loads the file.
    The bytes it is handed are no part of that, what ONNX Runtime makes of them is.

    Args:
        shape: (C, H, W) of one image.
        batch: Images in a call, unless the file fixes their number.

    Raises:
        ModelError: The process failed, or was not done in time.
    """
    if sys.platform != "linux":
        return None
    batch = fixed_batch(onnx.load_model_from_string(session.data)) or batch
    fed = prepare(torch.zeros(batch, *shape), session.contract).shape
    command = [sys.executable, "-I", footprint.__file__, *map(str, fed)]
    try:
        done = subprocess.run(  # noqa: S603 (our own script)
            command, input=session.data, capture_output=True, timeout=PATIENCE, check=True
        )
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        said = " ".join((error.stderr or b"").decode(errors="replace").split())[-200:]
        raise ModelError(f"memory of the file could not be measured: {said or error}") from error
    return Memory(batch=batch, peak_bytes=int(done.stdout))
