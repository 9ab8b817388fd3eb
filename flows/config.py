"""One YAML file, checked whole before anything runs."""

from pathlib import Path
from typing import Any

import yaml
from pydantic import Field, JsonValue, ValidationError, model_validator

from flows.sections import (
    Chain,
    DataConfig,
    EvaluationConfig,
    IntakeConfig,
    ModelConfig,
    Name,
    RegistryConfig,
    RetrainConfig,
)
from hardening.errors import ConfigError
from hardening.spec import Record, one_line, suggest
from hardening.threat import ThreatModel
from hardening.verdict import Gate

RESERVED = ("control", "champion")


class Config(Record):
    """A run: everything a user says. `$VARIABLES` and `~` are expanded in paths."""

    name: Name
    seed: int = Field(default=0, ge=0, lt=2**31)
    data: DataConfig
    model: ModelConfig
    threat: ThreatModel
    training: dict[str, JsonValue] | None = None
    evaluation: EvaluationConfig = EvaluationConfig()
    candidates: dict[Name, Chain] = Field(default_factory=dict)
    gate: Gate = Gate()
    registry: RegistryConfig | None = None
    intake: IntakeConfig = IntakeConfig()
    retrain: RetrainConfig = RetrainConfig()

    @property
    def attack_threat(self) -> ThreatModel:
        """What the attacks may do."""
        return self.evaluation.threat or self.threat

    def _decides_early(self) -> None:
        """An early decision is about one check, and needs more than one shard."""
        where = "evaluation.early_decision"
        if self.gate.robust_accuracy is None:
            raise ValueError(f"{where}: expected gate.robust_accuracy, which it decides")
        if self.gate.min_robust_gain is not None or self.registry is not None:
            raise ValueError(
                f"{where}: got it beside gate.min_robust_gain or a registry, expected neither: "
                "their comparisons need all images"
            )
        if self.evaluation.shard >= self.evaluation.images:
            raise ValueError(f"{where}: expected evaluation.shard below evaluation.images")

    @model_validator(mode="after")
    def _consistent(self) -> "Config":
        for name in self.candidates:
            if name in RESERVED:
                raise ValueError(f"candidates.{name}: the name is taken, choose another one")
        for field in ("weights", "onnx"):
            if self.training is not None and getattr(self.model, field) is not None:
                raise ValueError(f"training: got it beside model.{field}, expected one of the two")
        if self.evaluation.early_decision is not None:
            self._decides_early()
        if "l0" in {self.threat.norm, self.attack_threat.norm}:
            raise ValueError(
                "threat.norm: got l0, expected linf, l2 or l1: only single attacks know l0"
            )
        limits = (self.gate.robust_accuracy, self.gate.min_robust_gain)
        if self.registry is not None and (not self.candidates or limits == (None, None)):
            raise ValueError(
                "registry: expected candidates, and a gate with robust_accuracy or "
                "min_robust_gain: nothing is promoted untested"
            )
        return self


def load(path: str | Path) -> Config:
    """Read and check a configuration file.

    Raises:
        ConfigError: It cannot be read, is not YAML, or says something that is not understood.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: {getattr(error, 'strerror', None) or error}") from error
    try:
        content = yaml.load(text, Loader=_Loader)  # noqa: S506  a SafeLoader, see below
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not YAML: {' '.join(str(error).split())}") from error
    return parse(content, str(path))


def parse(content: Any, where: str) -> Config:
    """Check what a YAML file said; `where` names it in errors.

    Raises:
        ConfigError: One line: the field, what was got, what was expected.
    """
    if not isinstance(content, dict):
        raise ConfigError(f"{where}: got {type(content).__name__}, expected a mapping of settings")
    try:
        return Config(**content)
    except ValidationError as error:
        raise ConfigError(f"{where}: {_explain(error)}") from error


def load_gate(path: str | Path) -> Gate:
    """Read a gate from a YAML file: its limits at the top, or a whole configuration with a `gate`.

    Raises:
        ConfigError: As for `load`.
    """
    try:
        content = yaml.load(Path(path).read_text(encoding="utf-8"), Loader=_Loader)  # noqa: S506
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: {' '.join(str(error).split())}") from error
    limits = content.get("gate", content) if isinstance(content, dict) else content
    if not isinstance(limits, dict):
        raise ConfigError(f"{path}: got {type(limits).__name__}, expected a mapping of limits")
    try:
        return Gate(**limits)
    except ValidationError as error:
        raise ConfigError(f"{path}: {_explain(error, Gate)}") from error


def _explain(error: ValidationError, model: type[Record] = Config) -> str:
    """One line; an unknown key comes with the nearest valid name."""
    first = error.errors()[0]
    if first["type"] != "extra_forbidden":
        return one_line(error)
    *parents, name = first["loc"]
    known = _known(model, tuple(parents))
    place = ".".join(str(part) for part in first["loc"])
    return f"{place}: unknown key, {suggest(str(name), known)}"


def _known(model: type[Record], path: tuple[int | str, ...]) -> list[str]:
    """The valid keys at `path`; keys of mappings and places in lists lead no deeper."""
    for part in path:
        field = model.model_fields.get(str(part))
        model = (_record(field.annotation) if field else None) or model
    return list(model.model_fields)


def _record(annotation: Any) -> type[Record] | None:
    if isinstance(annotation, type) and issubclass(annotation, Record):
        return annotation
    found = [_record(part) for part in getattr(annotation, "__args__", ())]
    return next((part for part in found if part), None)


class _Loader(yaml.SafeLoader):
    """A SafeLoader that refuses a key given twice: YAML would silently keep the last one."""


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    keys = [loader.construct_object(key, deep=True) for key, _ in node.value]
    for key in keys:
        if keys.count(key) > 1:
            raise yaml.constructor.ConstructorError(
                None, None, f"the key {key!r} is given twice", node.start_mark
            )
    loader.flatten_mapping(node)
    return loader.construct_mapping(node, deep=True)


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)
