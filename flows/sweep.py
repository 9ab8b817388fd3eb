"""Nothing that arrives is lost: every version without a verdict is taken in, every new file too."""

from pathlib import Path

from prefect import flow
from prefect.task_runners import ThreadPoolTaskRunner

from flows.config import Config, load
from flows.intake import take_in
from flows.promote import challenge, registered_name
from flows.validate import validate
from hardening.errors import BrokenPromise, HardeningError
from tasks import registry, tracking
from tasks.arrivals import Swept, waiting
from tasks.console import ConsoleLog, say
from tasks.inbox import register_arrivals
from tasks.settings import workers


@flow(name="sweep", task_runner=ThreadPoolTaskRunner(max_workers=workers()))  # type: ignore[arg-type]
def sweep(config: str, output: str = "runs") -> Swept:
    """Take in whatever arrived and was not announced, or not handled to its end; for a schedule.

    1. finish what a promoter left undone that was killed
    2. register every new file under the configuration's intake.source as a version
    3. take in every version without a verdict, the oldest first, as `intake` does

    A version that fails does not stop the others; the flow fails when all were tried.

    Args:
        config: Path of the YAML file; its registry names the model.
        output: Folder under which each run's own folder is written.
    """
    return sweep_config(load(config), Path(output).absolute())


def sweep_config(config: Config, output: Path) -> Swept:
    """The body of the flow, for a configuration that is read already.

    Raises:
        BrokenPromise: Some versions could not be taken in; the others were.
        ServiceError: MLflow, S3 or the store does not answer; nothing was tagged for it.
    """
    name = registered_name(config)
    validate(config)
    validate(challenge(config, 1))
    registry.settle(name)
    registered: list[int] = []
    if config.intake.source is not None:
        registered = register_arrivals(config.intake.source, name, ConsoleLog())
    versions = waiting(name)
    if not versions:
        say(f"{name}: nothing new")
    taken, failed = [], []
    for version in versions:
        tracking.probe()  # a server that went down fails the sweep, not each version
        try:
            taken.append(take_in(config, version, output))
        except Exception as error:  # noqa: BLE001  told below; it must not stop the others
            known = isinstance(error, HardeningError)
            why = str(error) if known else f"{type(error).__name__}: {error}"
            say(f"{name} version {version}: {why}")
            failed.append(f"version {version} ({why})")
    if failed:
        raise BrokenPromise(
            f"{name}: {len(failed)} of {len(versions)} versions could not be taken in and will be "
            f"tried again: {'; '.join(failed)}"
        )
    return Swept(registered=registered, taken=taken)
