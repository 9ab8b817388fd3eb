"""How robust is a model that exists already? The chain without training and without candidates."""

from pathlib import Path

from prefect import flow
from prefect.task_runners import ThreadPoolTaskRunner

from flows.config import Config, load
from flows.harden import harden_config
from hardening.errors import ConfigError
from tasks.publish import Published
from tasks.settings import workers


@flow(name="evaluate", task_runner=ThreadPoolTaskRunner(max_workers=workers()))  # type: ignore[arg-type]
def evaluate(config: str, output: str = "runs") -> Published:
    """Evaluate the model whose weights a configuration file names, as it would ship.

    Args:
        config: Path of the YAML file; its candidates and registry are left aside.
        output: Folder under which the run's own folder is written.
    """
    return harden_config(existing(load(config)), Path(output).absolute())


def existing(config: Config) -> Config:
    """The part of a configuration that is about an existing model.

    Raises:
        ConfigError: It names no weights.
    """
    if config.model.weights is None:
        raise ConfigError(
            "model.weights: got nothing, expected the weights of an existing model; "
            "to train one, use `temper harden`"
        )
    # There is nothing to compare it with.
    gate = config.gate.model_copy(update={"max_clean_drop": None, "min_robust_gain": None})
    return config.model_copy(update={"candidates": {}, "registry": None, "gate": gate})
