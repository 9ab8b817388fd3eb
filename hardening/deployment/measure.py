"""How long the shipped bytes take.

Shapes: C channels, H x W pixels.
"""

from collections.abc import Sequence
from time import perf_counter

import numpy as np
import torch

from hardening.deployment.session import Session
from hardening.evidence import Latency

LEAST, MOST = 10, 2000
"""Calls timed at a batch size, whatever the time budget."""


def latency(
    session: Session,
    shape: tuple[int, int, int],
    batches: Sequence[int] = (1, 32),
    *,
    seconds: float = 1.0,
    warmups: int = 3,
) -> list[Latency]:
    """Median and 95th percentile of the time of one call, in ms, one thread, at each batch size.

    The bytes of `session` are run anew with a single thread, so that the number does not depend on
    how many processors the machine has.

    Args:
        shape: (C, H, W) of one image.
        seconds: Time spent at each batch size, more only if `LEAST` calls need more.
        warmups: Calls before the clock starts.
    """
    single = Session(session.data, threads=1)
    return [_measure(single, shape, batch, seconds, warmups) for batch in batches]


def _measure(
    session: Session, shape: tuple[int, int, int], batch: int, seconds: float, warmups: int
) -> Latency:
    x = torch.full((batch, *shape), 0.5)
    for _ in range(warmups):
        session(x)
    times: list[float] = []
    while len(times) < LEAST or (sum(times) < seconds and len(times) < MOST):
        start = perf_counter()
        session(x)
        times.append(perf_counter() - start)
    p50, p95 = (1000 * float(np.percentile(times, share)) for share in (50, 95))
    return Latency(batch=batch, p50_ms=p50, p95_ms=p95)
