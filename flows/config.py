"""One YAML file, checked whole before anything runs."""

from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import (
    BeforeValidator,
    Field,
    JsonValue,
    StringConstraints,
    ValidationError,
    model_validator,
)

from attacks.profiles import AttackSpec
from hardening.deployment.contract import Contract, Layout, Means, Outputs, Range, Spreads
from hardening.diagnosis.limits import Limits
from hardening.errors import ConfigError
from hardening.spec import Record, Spec, one_line, suggest
from hardening.threat import Number, ThreatModel
from hardening.verdict import Gate

Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._-]*$", max_length=80)]
"""Becomes a folder, an MLflow experiment and a Prefect key."""

Fraction = Annotated[Number, Field(gt=0, lt=1)]

RESERVED = ("control", "champion")


def _spelled_out(chain: Any) -> Any:
    """A chain of one link needs no list, and a link with nothing set is its name alone."""
    links = chain if isinstance(chain, list) else [chain]
    return [{"name": link} if isinstance(link, str) else link for link in links]


Chain = Annotated[
    list[Spec],
    BeforeValidator(_spelled_out, json_schema_input_type=str | Spec | list[str | Spec]),
    Field(min_length=1),
]
"""Defenses in their order; `auto` alone stands for `[{name: auto}]`."""


class DataConfig(Record):
    """Which dataset, where it lies, and how it is split."""

    name: str = Field(description="one of `temper list datasets`")
    path: str | None = Field(default=None, description="file, folder, s3:// or https:// address")
    sha256: str = Field(default="", description="expected digest of the file; a must for https")
    params: dict[str, JsonValue] = Field(default={}, description="the dataset's own parameters")
    validation: Fraction = Field(default=0.1, description="share of the training images held out")
    test: Fraction = Field(default=0.3, description="share held out where there is no test set")
    seed: int = Field(default=0, ge=0, description="seed of the split, not of the training")


class ModelConfig(Record):
    """Which architecture, and where its weights come from if it is not trained here; or a file."""

    name: str | None = Field(default=None, description="one of `temper list models`")
    onnx: str | None = Field(
        default=None,
        description="instead of a name, an ONNX file: path, s3://, https://, models:/NAME@ALIAS",
    )
    params: dict[str, JsonValue] = Field(
        default={}, description="the architecture's own parameters"
    )
    weights: str | None = Field(
        default=None,
        description="safetensors or state dict: file, s3://, https://, models:/NAME@ALIAS",
    )
    sha256: str = Field(default="", description="expected digest of the weights or the file")
    mean: Means | None = Field(default=None, description="per channel, in the units of range")
    std: Spreads | None = Field(default=None, description="per channel, in the units of range")
    layout: Layout | None = Field(default=None, description="of an ONNX file's input; NCHW")
    range: Range | None = Field(default=None, description="of an ONNX file's pixels; 0..1")
    input: str | None = Field(default=None, description="name of an ONNX file's input")
    output: str | None = Field(default=None, description="which of an ONNX file's outputs")
    outputs: Outputs | None = Field(default=None, description="of an ONNX file; logits")

    @property
    def contract(self) -> Contract:
        """How the ONNX file wants its images, as far as the configuration says it."""
        return Contract(**self.model_dump(include={*Contract.model_fields}, exclude_none=True))

    @model_validator(mode="after")
    def _consistent(self) -> "ModelConfig":
        if (self.name is None) == (self.onnx is None):
            got = "none of them" if self.name is None else "both"
            raise ValueError(f"name and onnx: got {got}, expected exactly one")
        if self.onnx is not None and (self.weights is not None or self.params):
            wrong = "weights" if self.weights is not None else "params"
            raise ValueError(f"{wrong}: got it beside onnx, expected it beside name only")
        for field in ("layout", "range", "input", "output", "outputs"):
            if self.onnx is None and getattr(self, field) is not None:
                raise ValueError(f"{field}: got it beside name, expected it beside onnx only")
        if (self.mean is None) != (self.std is None):
            raise ValueError("mean and std: got one of them, expected both or none")
        return self


class EvaluationConfig(Record):
    """How hard, and on how many test images, each exported file is attacked."""

    threat: ThreatModel | None = Field(
        default=None, description="what the attacks may do, if not what is trained against"
    )
    profile: str = Field(
        default="quick", description="effort profile, one of `temper list attacks`"
    )
    attacks: list[AttackSpec] | None = Field(
        default=None, description="own list instead of a profile's"
    )
    images: int = Field(default=500, ge=1, description="test images, class-stratified")
    shard: int = Field(
        default=1000, ge=1, description="images attacked at a time: what an interruption loses"
    )
    curve: list[Annotated[Number, Field(gt=0)]] = Field(
        default_factory=lambda: [0.25, 0.5, 0.75, 1.5, 2.0],
        description="multiples of eps at which the curve is measured",
    )
    early_decision: Annotated[float, Field(gt=0, lt=0.5)] | None = Field(
        default=None,
        description="error level at which attacks end once gate.robust_accuracy is decided",
    )
    surveys: list[Spec] = Field(
        default_factory=list, description="changes beyond the threat model: `temper list surveys`"
    )
    certify: list[Spec] = Field(
        default_factory=list, description="proven lower bounds: `temper list certifiers`"
    )
    naive: bool = Field(
        default=False,
        description="also report what an evaluation that does not know the defenses would",
    )
    limits: Limits = Field(default=Limits(), description="when each alarm fires")
    statements: dict[str, str] = Field(
        default_factory=dict, description="what only you can say of the checklist's items"
    )


class RegistryConfig(Record):
    """The registered model that the winner becomes a version of."""

    name: Name


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
