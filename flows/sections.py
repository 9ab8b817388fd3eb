"""The sections of a configuration: what each field means, and what contradicts itself."""

from typing import Annotated, Any

from pydantic import BeforeValidator, Field, JsonValue, StringConstraints, model_validator

from attacks.profiles import AttackSpec
from hardening.deployment.contract import Contract, Layout, Means, Outputs, Range, Spreads
from hardening.diagnosis.limits import Limits
from hardening.spec import Record, Spec
from hardening.threat import Number, ThreatModel

Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._-]*$", max_length=80)]
"""Becomes a folder, an MLflow experiment and a Prefect key."""

Fraction = Annotated[Number, Field(gt=0, lt=1)]


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


class IntakeConfig(Record):
    """What happens to versions of the registered model that somebody else registers."""

    harden: bool = Field(
        default=False, description="also run the candidates on each file that arrives"
    )
    source: str | None = Field(
        default=None,
        description="where ONNX files arrive, each to be registered: folder, file:// or s3://",
    )


class RetrainConfig(Record):
    """When the recipe runs again by itself, beside new data and a changed recipe."""

    max_age_days: Annotated[Number, Field(gt=0)] | None = Field(
        default=None, description="longest reign before a challenger is trained from another seed"
    )
