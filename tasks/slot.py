"""A place to train on, known by its name: of all runs that name the same one, one trains at a time.

A slot is a global concurrency limit of Prefect's, with room for one. `TEMPER_SLOT` names the one of
this machine, or of the device that CUDA_VISIBLE_DEVICES leaves to this worker.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from prefect.concurrency.asyncio import ConcurrencySlotAcquisitionError
from prefect.concurrency.sync import concurrency

from hardening.errors import ServiceError
from tasks.settings import SLOT, lease

SHORTEST = 60.0
"""Seconds of the shortest lease that Prefect gives."""


@contextmanager
def slot(say: Callable[[str], None]) -> Iterator[None]:
    """Hold the slot of this machine while the block runs; waits for whoever holds it.

    Without `TEMPER_SLOT` there is nothing to hold. The slot of a process that was killed is free
    when its lease runs out. A Prefect that is away in the middle ends no training: the slot may be
    given to somebody else then.

    Args:
        say: Is told what is waited for.

    Raises:
        ServiceError: Prefect does not answer, or knows no such slot.
    """
    name = os.environ.get(SLOT)
    if not name:
        yield
        return
    say(f"waits for the slot {name}")
    with ExitStack() as held:
        try:
            held.enter_context(
                concurrency(
                    name,
                    lease_duration=max(SHORTEST, lease()),
                    strict=True,
                    raise_on_lease_renewal_failure=False,
                )
            )
        except ConcurrencySlotAcquisitionError as error:
            reason = str(error).splitlines()[0]
            raise ServiceError(
                f"{SLOT}: got {name!r}, expected a concurrency limit of Prefect's ({reason}); "
                f"`prefect gcl create {name} --limit 1`"
            ) from error
        yield
