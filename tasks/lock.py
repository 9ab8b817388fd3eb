"""One at a time on this machine: a lock that dies with its process."""

import fcntl
import re
from collections.abc import Iterator
from contextlib import contextmanager

from hardening.errors import ServiceError
from tasks.settings import home


@contextmanager
def locked(name: str) -> Iterator[None]:
    """Hold the lock `name` of this home folder; waits for whoever holds it.

    Threads exclude each other, too: every call opens the file anew. Other machines are not kept
    out; who writes to a shared service reads its own write back.

    Raises:
        ServiceError: The folder of the locks cannot be written.
    """
    path = home() / "locks" / f"{re.sub(r'[^A-Za-z0-9._-]', '_', name)}.lock"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("w")
    except OSError as error:
        raise ServiceError(f"lock {path}: {error.strerror}, expected a writable folder") from error
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
