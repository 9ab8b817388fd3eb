"""Everything in a configuration that needs the registries to be understood."""

from attacks import ATTACKS
from attacks.profiles import PROFILES, labels
from defenses import DEFENSES
from defenses.standard import standard
from flows.config import Config
from hardening.data import DATASETS
from hardening.errors import ConfigError
from hardening.models import MODELS
from hardening.spec import Spec, look_up, resolve, suggest

NEED_PATH = ("npz", "folder")
"""Datasets that are nowhere unless the user says where."""

LAST = ("quantization",)
"""Defenses whose result cannot be trained further."""


def validate(config: Config) -> None:
    """Check names and parameters against the registries.

    Raises:
        ConfigError: One line: the field, what was got, what was expected.
    """
    resolve(look_up(DATASETS, config.data.name, "data.name"), config.data.params, "data.params")
    if config.data.name in NEED_PATH and config.data.path is None:
        raise ConfigError(f"data.path: got nothing, expected where the {config.data.name} lies")
    resolve(look_up(MODELS, config.model.name, "model.name"), config.model.params, "model.params")
    resolve(standard, config.training or {}, "training")
    if config.evaluation.profile not in PROFILES:
        nearest = suggest(config.evaluation.profile, PROFILES)
        raise ConfigError(
            f"evaluation.profile: unknown name {config.evaluation.profile!r}, {nearest}"
        )
    if config.evaluation.attacks is not None and not config.evaluation.attacks:
        raise ConfigError("evaluation.attacks: got an empty list, expected at least one attack")
    for index, attack in enumerate(config.evaluation.attacks or []):
        where = f"evaluation.attacks.{index}"
        resolve(look_up(ATTACKS, attack.name, where), attack.params, where)
    labels(config.evaluation.attacks or [])
    for name, chain in config.candidates.items():
        _validate_chain(name, list(chain))


def _validate_chain(name: str, chain: list[Spec]) -> None:
    for index, defense in enumerate(chain):
        where = f"candidates.{name}.{index}"
        resolve(look_up(DEFENSES, defense.name, where), defense.params, where)
        if defense.name in LAST and index + 1 < len(chain):
            raise ConfigError(
                f"{where}: got {defense.name} before {chain[index + 1].name}, expected it last: "
                "what follows could not train the quantized file"
            )
