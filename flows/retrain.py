"""Is there anything to train again for? New data, a changed recipe, or a champion that is old."""

import json
import time
from pathlib import Path

from prefect import flow
from prefect.task_runners import ThreadPoolTaskRunner

from flows.chain import load as load_dataset
from flows.chain import recorded
from flows.config import Config, load
from flows.harden import harden_config
from flows.promote import registered_name
from flows.sources import find_data, find_model
from flows.validate import validate
from tasks.attempts import Attempts, Retrained, attempts
from tasks.claims import claim
from tasks.console import ConsoleLog, say
from tasks.data import data_facts
from tasks.settings import lease, store_uri, workers
from tasks.step import submit
from tasks.store import open_ground, open_store
from tasks.tags import recipe

DAY = 24 * 3600.0
"""Seconds."""


@flow(name="retrain", task_runner=ThreadPoolTaskRunner(max_workers=workers()))  # type: ignore[arg-type]
def retrain(config: str, output: str = "runs") -> Retrained:
    """Harden, compare and perhaps promote if there is a reason to, else end in seconds.

    1. the digests of data and recipe, against those of the versions that there are
    2. the reign of the champion, against the longest that the configuration allows
    3. if one of them says so: everything that `harden` does

    A run that failed or was killed is tried again and goes on where it stopped. One that ended
    with a verdict is not repeated on the same data, whatever the verdict was.

    Args:
        config: Path of the YAML file; its registry names the model.
        output: Folder under which the run's own folder is written.
    """
    return retrain_config(load(config), Path(output).absolute())


def retrain_config(config: Config, output: Path) -> Retrained:
    """The body of the flow, for a configuration that is read already."""
    name = registered_name(config)
    validate(config)
    with claim(open_ground(store_uri()), f"retrain-{name}", lease()) as ours:
        if not ours:
            say(f"{name}: somebody else retrains it")
            return Retrained(reason="")
        before = _before(config, name)
        reason = _reason(config, before)
        if not reason:
            say(f"{name}: nothing new")
            return Retrained(reason="")
        say(f"{name}: {reason}")
        # The same recipe on the same data gives the same file, unless it starts from another seed.
        seed = (config.seed + before.made) % 2**31
        published = harden_config(config.model_copy(update={"seed": seed}), output)
        return Retrained(reason=reason, published=published)


def _before(config: Config, name: str) -> Attempts:
    log = ConsoleLog()
    data = load_dataset(config, submit, find_data(config, log))
    facts = json.loads(open_store(store_uri()).get(data["facts"]))
    digest = data_facts(facts, dict(data)).sha256
    return attempts(name, recipe(recorded(config, find_model(config, log)), digest), digest)


def _reason(config: Config, before: Attempts) -> str:
    """Why to train; empty if there is no reason to."""
    if not before.made:
        what = "this recipe" if before.data_known else "this data"
        return f"no version was made from {what} yet"
    limit, since = config.retrain.max_age_days, before.champion_since
    if limit is None or since is None or before.last is None:
        return ""
    days = (time.time() - since) / DAY
    # A challenger that did not beat it is a sign of life, too: not every night.
    if (time.time() - max(since, before.last)) / DAY <= limit:
        return ""
    return f"its champion is {days:.3g} days old, retrain.max_age_days is {limit:g}"
