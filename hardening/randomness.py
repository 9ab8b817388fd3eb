"""Seeds for the parts of PyTorch that take no generator."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

_LOCK = threading.RLock()


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Run a block with the global generators at `seed`, and leave them as they were before.

    The initialisers of `torch.nn` and `Dropout` know the global generator only: this is the one
    place that may seed it. The generator belongs to the whole process, so two blocks in two
    threads take turns; one block may hold another.
    """
    with _LOCK, torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        yield


def draw_seed(rng: torch.Generator) -> int:
    """A seed for `seeded`, drawn from `rng`."""
    return int(torch.randint(2**62, (), generator=rng, device=rng.device))
