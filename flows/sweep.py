"""Nothing that arrives is lost: every version without a verdict is taken in, every new file too."""

import time
from collections.abc import Callable
from pathlib import Path

from prefect import flow
from prefect.task_runners import ThreadPoolTaskRunner

from flows.config import Config, load
from flows.intake import take_in
from flows.promote import challenge, registered_name
from flows.validate import validate
from hardening.errors import BrokenPromise, HardeningError
from tasks import registry, tracking
from tasks.arrivals import Swept, Taken, Work, attempts, begin_attempt, end_attempts, waiting
from tasks.claims import claim
from tasks.console import ConsoleLog, say
from tasks.inbox import Received, register_arrivals
from tasks.settings import lease, store_uri, workers
from tasks.store import open_ground


@flow(name="sweep", task_runner=ThreadPoolTaskRunner(max_workers=workers()))  # type: ignore[arg-type]
def sweep(config: str, output: str = "runs") -> Swept:
    """Take in whatever arrived and was not announced, or not handled to its end; for a schedule.

    1. finish what a promoter left undone that was killed
    2. register every new file under the configuration's intake.source as a version
    3. take in every version without a verdict, the oldest first, as `intake` does

    A file or version that fails does not stop the others; the flow fails when all were tried. The
    same version is tried again later and later, once a day in the end.

    Args:
        config: Path of the YAML file; its registry names the model.
        output: Folder under which each run's own folder is written.
    """
    return sweep_config(load(config), Path(output).absolute())


def sweep_config(config: Config, output: Path) -> Swept:
    """The body of the flow, for a configuration that is read already.

    Raises:
        BrokenPromise: Some files or versions could not be taken in; the others were.
        ServiceError: MLflow, S3 or the store does not answer; nothing was tagged for it.
    """
    name = registered_name(config)
    validate(config)
    validate(challenge(config, 1))
    with claim(open_ground(store_uri()), f"sweep-{name}", lease()) as ours:
        if not ours:
            say(f"{name}: somebody else sweeps")
            return Swept(registered=[], taken=[])
        return _sweep(config, name, output)


def _sweep(config: Config, name: str, output: Path) -> Swept:
    registry.settle(name)
    received, broken = Received([], []), None
    if config.intake.source is not None:
        try:
            received = register_arrivals(config.intake.source, name, ConsoleLog())
        except HardeningError as error:  # raised below; what waits already needs no inbox
            say(str(error))
            broken = error
    taken, failed = try_each(name, "evaluate", lambda version: take_in(config, version, output))
    raise_failed(name, received.failed + failed)
    if broken is not None:
        raise broken
    return Swept(registered=received.registered, taken=taken)


def try_each(name: str, work: Work, act: Callable[[int], Taken]) -> tuple[list[Taken], list[str]]:
    """Do `act` to every version that waits for `work`: what became of them, and what failed."""
    taken: list[Taken] = []
    failed: list[str] = []
    versions = waiting(name, work)
    if not versions:
        say(f"{name}: nothing new")
    for found in versions:
        before = attempts(found)
        if time.time() < before.until:
            say(f"{name} version {found.version}: attempts so far {before}")
            continue
        tracking.probe()  # a server that went down fails the sweep, not each version
        begun = begin_attempt(found)
        try:
            taken.append(act(found.version))
        except Exception as error:  # noqa: BLE001  told below; it must not stop the others
            known = isinstance(error, HardeningError)
            why = str(error) if known else f"{type(error).__name__}: {error}"
            say(f"{name} version {found.version}: {why}; attempts so far {begun}")
            failed.append(f"version {found.version} ({why})")
        else:
            end_attempts(found)
    return taken, failed


def raise_failed(name: str, failed: list[str]) -> None:
    """Raise a BrokenPromise that names what failed, if something did."""
    if failed:
        raise BrokenPromise(
            f"{name}: {len(failed)} could not be taken in and will be tried again: "
            f"{'; '.join(failed)}"
        )
