"""How robust is a model that exists already? The chain without training and candidates."""

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
    """Evaluate the ONNX file, or the model with the weights, that a configuration names.

    Args:
        config: Path of the YAML file; its candidates and registry are left aside.
        output: Folder under which the run's own folder is written.
    """
    return harden_config(existing(load(config)), Path(output).absolute())


def existing(config: Config) -> Config:
    """The part of a configuration that is about an existing model.

    Raises:
        ConfigError: It names neither a file nor weights.
    """
    if config.model.weights is None and config.model.onnx is None:
        raise ConfigError(
            "model.weights: got nothing, expected the weights of an existing model, or model.onnx "
            "instead of model.name; to train one, use `temper harden`"
        )
    # There is nothing to compare it with.
    gate = config.gate.model_copy(update={"max_clean_drop": None, "min_robust_gain": None})
    return config.model_copy(update={"candidates": {}, "registry": None, "gate": gate})
