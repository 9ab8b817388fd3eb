"""A model has arrived in the registry: fit for use or not, better than the champion or not."""

from collections.abc import Callable
from pathlib import Path

from prefect import flow
from prefect.task_runners import ThreadPoolTaskRunner

from flows.chain import load as load_dataset
from flows.config import Config, load
from flows.harden import harden_config
from flows.promote import challenge, registered_name
from flows.sources import find_data, find_model
from flows.validate import validate
from hardening.errors import ModelError
from tasks.arrivals import Taken, Work, due, look, plan_hardening, refuse, tell_hardening
from tasks.claims import claim
from tasks.console import ConsoleLog, say
from tasks.models import fetch_onnx
from tasks.settings import lease, store_uri, workers
from tasks.step import submit
from tasks.store import open_ground
from tasks.versions import VERDICT, Registered


@flow(name="intake", task_runner=ThreadPoolTaskRunner(max_workers=workers()))  # type: ignore[arg-type]
def intake(config: str, version: int, output: str = "runs") -> Taken:
    """Evaluate a registered version that has arrived, once, however often it is announced.

    1. nothing to do if it carries a verdict, or while somebody else is at work on it
    2. fetch its file and open it safely; one that is refused is tagged so
    3. evaluate it as deployed beside the champion, tag it with its verdict, promote the better one
    4. if the configuration says so, tag it as due for `harden_due`, which trains

    Args:
        config: Path of the YAML file; its registry names the model.
        version: The version of the registered model.
        output: Folder under which the run's own folder is written.
    """
    return take_in(load(config), version, Path(output).absolute())


def take_in(config: Config, version: int, output: Path) -> Taken:
    """The body of the flow, for a configuration that is read already."""
    about, name = challenge(config, version), registered_name(config)
    validate(config)
    validate(about)
    return once(name, version, "evaluate", lambda found: _evaluate(config, about, found, output))


def once(name: str, version: int, work: Work, do: Callable[[Registered], Taken]) -> Taken:
    """Do `work` on a version if it is due and nobody else is at it."""
    found = look(name, version)
    if due(found) != work:
        return _done(found)
    with claim(open_ground(store_uri()), f"intake-{name}-{version}", lease()) as ours:
        if not ours:
            say(f"{name} version {version}: somebody else is at work on it")
            return Taken(version=version, outcome="busy", verdict="")
        # Whoever had the claim before may have finished meanwhile.
        found = look(name, version)
        return do(found) if due(found) == work else _done(found)


def _done(found: Registered) -> Taken:
    verdict = found.tags.get(VERDICT, "")
    state = f"has its verdict: {verdict}" if verdict else "is being judged by the run that made it"
    say(f"{found.name} version {found.version}: {state}")
    return Taken(version=found.version, outcome="done", verdict=verdict)


def _evaluate(config: Config, about: Config, found: Registered, output: Path) -> Taken:
    if why := _refusal(about):
        verdict = refuse(found, why)
        say(f"{found.name} version {found.version}: {verdict}")
        return Taken(version=found.version, outcome="refused", verdict=verdict)
    if config.intake.harden:
        plan_hardening(found)
    published = harden_config(about, output, found.version)
    if config.intake.harden:
        tell_hardening(found)
        say(f"{found.name} version {found.version}: its candidates are due, see temper harden-due")
    verdict = look(found.name, found.version).tags[VERDICT]
    return Taken(version=found.version, outcome="judged", verdict=verdict, published=published)


def _refusal(about: Config) -> str | None:
    """Why the file cannot be evaluated on the dataset; None if it can.

    Only what is wrong with the file counts: a server that is down says nothing about it.
    """
    log = ConsoleLog()
    data = load_dataset(about, submit, find_data(about, log))
    try:
        source = find_model(about, log)
    except ModelError as error:
        return str(error)
    try:
        contract = about.model.contract
        submit(fetch_onnx, "fetch ONNX file", data["training"], source, contract=contract).result()
    except ModelError as error:
        return str(error)
    return None
