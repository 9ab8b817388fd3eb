"""The candidates run on what arrived: the training that `intake` leaves to a queue of its own."""

from pathlib import Path

from prefect import flow
from prefect.task_runners import ThreadPoolTaskRunner

from flows.config import Config, load
from flows.harden import harden_config
from flows.intake import once
from flows.promote import given, registered_name
from flows.sweep import raise_failed, try_each
from flows.validate import validate
from tasks.arrivals import Swept, Taken, look, note_hardening
from tasks.settings import workers
from tasks.versions import VERDICT, Registered


@flow(name="harden-due", task_runner=ThreadPoolTaskRunner(max_workers=workers()))  # type: ignore[arg-type]
def harden_due(config: str, output: str = "runs") -> Swept:
    """Run the candidates on every version that `intake` or `sweep` judged and tagged as due.

    The winner becomes a version of its own. A version that fails does not stop the others; the
    flow fails when all were tried.

    Args:
        config: Path of the YAML file; its registry names the model.
        output: Folder under which each run's own folder is written.
    """
    return harden_due_config(load(config), Path(output).absolute())


def harden_due_config(config: Config, output: Path) -> Swept:
    """The body of the flow, for a configuration that is read already.

    Raises:
        BrokenPromise: The candidates could not be run on some versions.
        ServiceError: MLflow or the store does not answer.
    """
    name = registered_name(config)
    validate(config)

    def work(found: Registered) -> Taken:
        hardened = harden_config(given(config, found.version), output)
        note_hardening(found, hardened.version)
        verdict = look(name, found.version).tags[VERDICT]
        return Taken(version=found.version, outcome="judged", verdict=verdict, hardened=hardened)

    taken, failed = try_each(name, "harden", lambda version: once(name, version, "harden", work))
    raise_failed(name, failed)
    return Swept(registered=[], taken=taken)
