"""Is this version better than the champion? Both are evaluated again, alike."""

from pathlib import Path

from prefect import flow
from prefect.task_runners import ThreadPoolTaskRunner

from flows.config import Config, load
from flows.harden import harden_config
from flows.sections import ModelConfig
from hardening.errors import ConfigError
from tasks.publish import Published
from tasks.settings import workers


@flow(name="promote", task_runner=ThreadPoolTaskRunner(max_workers=workers()))  # type: ignore[arg-type]
def promote(config: str, version: int, output: str = "runs") -> Published:
    """Evaluate a registered version beside the champion and promote it if it is the better one.

    Same images, same attacks, same budget for both; what is known of either from a run before is
    not measured again. The version gets its verdict as tags, promoted or not.

    Args:
        config: Path of the YAML file; its registry names the model, its candidates are left aside.
        version: The version of the registered model.
        output: Folder under which the run's own folder is written.
    """
    about = challenge(load(config), version)
    return harden_config(about, Path(output).absolute(), version)


def challenge(config: Config, version: int) -> Config:
    """The part of a configuration that is about one registered version and the champion.

    Raises:
        ConfigError: It names no registered model, or its gate asks for no robustness.
    """
    if config.gate.robust_accuracy is None:
        raise ConfigError(
            "gate.robust_accuracy: got nothing, expected a limit: nothing is promoted untested"
        )
    # What it was made from is not in this run: there is no control to compare it with.
    gate = config.gate.model_copy(update={"max_clean_drop": None, "min_robust_gain": None})
    return given(config, version).model_copy(update={"candidates": {}, "gate": gate})


def given(config: Config, version: int) -> Config:
    """A configuration whose model is the file of a registered version.

    It is read as `model` says if that is a file, too; else as the file itself says.
    """
    uri = f"models:/{registered_name(config)}/{version}"
    model = ModelConfig(onnx=uri)
    if config.model.onnx is not None:
        model = config.model.model_copy(update={"onnx": uri, "sha256": ""})
    return config.model_copy(update={"model": model, "training": None})


def registered_name(config: Config) -> str:
    """The registered model that a configuration is about.

    Raises:
        ConfigError: It names none.
    """
    if config.registry is None:
        raise ConfigError("registry: got nothing, expected registry.name, the registered model")
    return config.registry.name
