"""From a configuration to a verdict: train or fetch, defend, export, attack, judge, promote."""

from pathlib import Path

from prefect import flow
from prefect.task_runners import ThreadPoolTaskRunner

from flows.chain import run_chain
from flows.config import Config, load
from flows.sources import find_sources
from flows.validate import cautions, validate
from hardening.errors import ChampionChanged
from hardening.evidence import RunEvidence
from tasks import engines, tracking
from tasks.console import ConsoleLog, say
from tasks.publish import Published, check_output, publish, read_all, write_folder
from tasks.settings import store_uri, workers
from tasks.ship import ship
from tasks.step import submit
from tasks.store import open_store

ROUNDS = 5
"""Times that a run is compared with the champion before others were quicker once too often."""


@flow(name="harden", task_runner=ThreadPoolTaskRunner(max_workers=workers()))  # type: ignore[arg-type]
def harden(config: str, output: str = "runs") -> Published:
    """Harden a model as a configuration file says and publish the verdict.

    1. check the configuration, every source and every server; nothing starts before that
    2. run the chain of steps; those with unchanged inputs are skipped
    3. write its lineage into every file, now that its figures are known
    4. write the run's folder, log it to MLflow, register and perhaps promote the winner

    Args:
        config: Path of the YAML file.
        output: Folder under which the run's own folder is written.
    """
    return harden_config(load(config), Path(output).absolute())


def harden_config(config: Config, output: Path, version_of: int | None = None) -> Published:
    """The body of the flow, for a configuration that is read already.

    If somebody else becomes champion meanwhile, everything is compared with that one again: its
    attacks are all that there is to do then.

    Args:
        version_of: The version of the registered model that the run is about, if it is about one.
    """
    validate(config)
    for text in cautions(config):
        say(text)
    check_output(output)
    tracking.probe()
    engines.check()
    for _ in range(ROUNDS - 1):
        try:
            return _compare(config, output, version_of)
        except ChampionChanged as error:
            say(str(error))
    return _compare(config, output, version_of)


def _compare(config: Config, output: Path, version_of: int | None) -> Published:
    """Measure, judge and publish, beside the champion of this moment."""
    store = open_store(store_uri())
    finished = run_chain(config, submit, find_sources(config, store, ConsoleLog()))
    evidence = store.get(finished.evidence)
    models = ship(
        RunEvidence.model_validate_json(evidence),
        finished.evidence.sha256,
        read_all(store, finished.files),
        read_all(store, finished.parents),
    )
    files = {
        "evidence.json": evidence,
        "verdict.json": store.get(finished.verdict),
        "gate.json": config.gate.model_dump_json(indent=1, exclude_none=True).encode(),
        "report.html": store.get(finished.report),
    }
    if finished.catalogue is not None:
        files["catalogue.md"] = store.get(finished.catalogue)
    on_disk = files | {f"{name}.onnx": data for name, data in models.items()}
    folder = write_folder(on_disk, config.name, output)
    register_as = config.registry.name if config.registry else None
    published: Published = publish(
        files, models, folder, finished.evidence, config.gate, register_as, version_of
    )
    return published
