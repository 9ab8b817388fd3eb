"""Everything in a configuration that needs the registries to be understood."""

from attacks.adaptive import WRAPPERS
from attacks.profiles import PROFILES, AttackSpec, in_order, labels
from attacks.registry import ATTACKS, SURVEYS
from defenses import DEFENSES
from defenses.declaration import declaration
from defenses.smoothing import mismatches
from defenses.standard import standard
from flows.config import Config
from hardening.attack import facts
from hardening.certify import CERTIFIERS
from hardening.checklist import STATEMENTS
from hardening.data import DATASETS
from hardening.errors import ConfigError
from hardening.models import MODELS
from hardening.spec import Spec, look_up, resolve, suggest
from tasks.settings import TRAIN_PROCESSES, train_processes

NEED_PATH = ("npz", "folder")
"""Datasets that are nowhere unless the user says where."""

SOURCES = ("file", "parent", "control", "robust", "ensemble", "champion")
"""Whose gradients may lead an attack, beside candidates by name."""

LAST = ("quantization", "quantization_aware", "compression", "half_precision")
"""Defenses whose result cannot be trained further."""

ROUNDING = ("jpeg", "bit_depth")
"""Defenses that pass no gradient to the pixels, until a file is made of them."""

ALONE = ("free", "fast_bat", "extreme_norm")
"""Defenses that carry numbers from batch to batch: several processes would each have their own."""

UNLED = (
    "quantization",
    "quantization_aware",
    "half_precision",
    *ROUNDING,
    "smoothing",
    "smooth_activation",
    "distillation",
    "stochastic_activation_pruning",
)
"""Defenses that need no gradient in the pixels of a model that is no file yet."""


def validate(config: Config) -> None:
    """Check names and parameters against the registries.

    Raises:
        ConfigError: One line: the field, what was got, what was expected.
    """
    resolve(look_up(DATASETS, config.data.name, "data.name"), config.data.params, "data.params")
    if config.data.name in NEED_PATH and config.data.path is None:
        raise ConfigError(f"data.path: got nothing, expected where the {config.data.name} lies")
    if config.model.name is not None:
        network = look_up(MODELS, config.model.name, "model.name")
        resolve(network, config.model.params, "model.params")
    resolve(standard, config.training or {}, "training")
    if config.evaluation.profile not in PROFILES:
        nearest = suggest(config.evaluation.profile, PROFILES)
        raise ConfigError(
            f"evaluation.profile: unknown name {config.evaluation.profile!r}, {nearest}"
        )
    if config.evaluation.attacks is not None and not config.evaluation.attacks:
        raise ConfigError("evaluation.attacks: got an empty list, expected at least one attack")
    for index, attack in enumerate(config.evaluation.attacks or []):
        _validate_attack(config, attack, f"evaluation.attacks.{index}")
    labels(in_order(config.evaluation.attacks or []))
    for item in config.evaluation.statements:
        if item not in STATEMENTS:
            nearest = suggest(item, STATEMENTS)
            raise ConfigError(f"evaluation.statements: unknown item {item!r}, {nearest}")
    for index, survey in enumerate(config.evaluation.surveys):
        where = f"evaluation.surveys.{index}"
        resolve(look_up(SURVEYS, survey.name, where), survey.params, where)
    for index, method in enumerate(config.evaluation.certify):
        where = f"evaluation.certify.{index}"
        resolve(look_up(CERTIFIERS, method.name, where), method.params, where)
    for name, chain in config.candidates.items():
        _validate_chain(name, list(chain), file=config.model.onnx is not None)


def cautions(config: Config) -> list[str]:
    """What is allowed and hardly meant: noise that training and certificate do not share."""
    certified = [
        resolve(CERTIFIERS["smoothing"], method.params)["sigma"]
        for method in config.evaluation.certify
        if method.name == "smoothing"
    ]
    return [
        f"candidates.{name}: {text}"
        for name, chain in config.candidates.items()
        for text in mismatches(chain, certified)
    ]


def _validate_attack(config: Config, attack: AttackSpec, where: str) -> None:
    function = look_up(ATTACKS, attack.name, where)
    resolve(function, attack.params, where)
    norm, norms = config.attack_threat.norm, facts(function).norms
    if norm not in norms:
        raise ConfigError(
            f"{where}: got {attack.name} for a threat of norm {norm}, "
            f"expected one of its norms: {', '.join(norms)}"
        )
    sources = {*SOURCES, *config.candidates}
    if attack.source not in sources:
        nearest = suggest(attack.source, sources)
        raise ConfigError(f"{where}.source: unknown name {attack.source!r}, {nearest}")
    if facts(function).differential and attack.source != "parent":
        raise ConfigError(
            f"{where}.source: got {attack.source} for {attack.name}, which compares a quantized "
            "file with the one it was made from, expected parent"
        )
    for index, wrapper in enumerate(attack.through):
        place = f"{where}.through.{index}"
        resolve(look_up(WRAPPERS, wrapper.name, place), wrapper.params, place)


def _validate_chain(name: str, chain: list[Spec], *, file: bool) -> None:
    rounding = ""
    for index, defense in enumerate(chain):
        where = f"candidates.{name}.{index}"
        resolve(look_up(DEFENSES, defense.name, where), defense.params, where)
        if defense.name in ALONE and train_processes() > 1:
            raise ConfigError(
                f"{where}: got {defense.name} with {TRAIN_PROCESSES}={train_processes()}, expected "
                "1: it carries numbers from batch to batch"
            )
        last = defense.name in LAST or declaration(DEFENSES[defense.name]).ships
        if last and index + 1 < len(chain):
            raise ConfigError(
                f"{where}: got {defense.name} before {chain[index + 1].name}, expected it last: "
                "what follows could not train what it gives"
            )
        if rounding and defense.name not in UNLED and not file:
            raise ConfigError(
                f"{where}: got {defense.name} after {rounding}, expected it before: {rounding} "
                "passes no gradient to the pixels, so training would meet no attack"
            )
        if defense.name in ROUNDING:
            rounding = defense.name
