"""Sets of attacks by effort, and the names of their rows in a report."""

from collections.abc import Sequence
from typing import NamedTuple

from pydantic import Field

from attacks.registry import ATTACKS
from hardening.attack import facts
from hardening.errors import ConfigError
from hardening.evidence import Kind
from hardening.spec import Spec


class AttackSpec(Spec):
    """One attack of an evaluation: which, led by what, and on how many images."""

    source: str = Field(
        default="file",
        description="whose gradients lead: file, parent (of a quantized file), control, robust, "
        "ensemble, or a candidate's name",
    )
    through: list[Spec] = Field(default_factory=list, description="adaptive wrappers, inner first")
    sample: int | None = Field(
        default=None, ge=1, description="a detector: all images follow if one of these falls"
    )


class Profile(NamedTuple):
    """How much is done: attacks, and the sizes of the samples on which alarms are measured.

    `distances` is the number of images whose nearest adversarial image is looked for.
    """

    attacks: tuple[AttackSpec, ...]
    gates: tuple[str, ...]
    sample: int
    distances: int


def _apgd(source: str = "file", **params: int | float | str) -> AttackSpec:
    return AttackSpec(name="apgd", params=dict(params), source=source)


def _diva(steps: int) -> AttackSpec:
    return AttackSpec(name="diva", params={"steps": steps}, source="parent")


def _transfer(source: str, steps: int) -> AttackSpec:
    return AttackSpec(name="transfer", params={"steps": steps}, source=source)


PROFILES: dict[str, Profile] = {
    "quick": Profile(
        attacks=(
            _apgd(steps=30, loss="ce"),
            _apgd(steps=20, loss="dlr-targeted", targets=4),
            _apgd(steps=20, loss="dlr"),
            _apgd("parent", steps=20, loss="margin"),
            _apgd("control", steps=20, loss="margin"),
            _diva(20),
            AttackSpec(name="square", params={"queries": 500}, sample=100),
        ),
        gates=("G1", "G2", "G3", "G4", "G5", "G6", "G7", "G8", "G14"),
        sample=64,
        distances=64,
    ),
    "standard": Profile(
        attacks=(
            _apgd(steps=50, loss="ce"),
            _apgd(steps=30, loss="dlr-targeted", targets=9),
            _apgd(steps=50, loss="dlr"),
            AttackSpec(name="fab", params={"steps": 30, "targets": 9}, sample=50),
            _apgd("parent", steps=30, loss="margin"),
            _apgd("control", steps=30, loss="margin"),
            _apgd("robust", steps=30, loss="margin"),
            _transfer("ensemble", 20),
            _diva(40),
            AttackSpec(name="square", params={"queries": 1000}, sample=100),
        ),
        gates=("G1", "G2", "G3", "G4", "G5", "G6", "G7", "G8", "G12", "G13", "G14", "G15"),
        sample=128,
        distances=128,
    ),
    "full": Profile(
        attacks=(
            _apgd(steps=100, loss="ce"),
            _apgd(steps=100, loss="dlr-targeted", targets=9),
            _apgd(steps=100, loss="dlr"),
            AttackSpec(name="fab", params={"steps": 100, "targets": 9}),
            _apgd("parent", steps=100, loss="margin"),
            _apgd("control", steps=100, loss="margin"),
            _apgd("robust", steps=100, loss="margin"),
            _transfer("control", 50),
            _transfer("robust", 50),
            _transfer("ensemble", 50),
            _diva(100),
            AttackSpec(name="square", params={"queries": 5000}),
            AttackSpec(name="hopskipjump", params={"queries": 2000}, sample=10),
        ),
        gates=(
            *("G1", "G2", "G3", "G4", "G5", "G6", "G7", "G8"),
            *("G12", "G13", "G14", "G15", "G17", "G19"),
        ),
        sample=128,
        distances=256,
    ),
}
"""Cheapest first. Two losses, because each fails where the other does not; models nearby, because
what fools them may fool this one; what a quantized file alone gets wrong; and attacks without
gradients, because those can be masked. An attack from a parent is left out where there is none."""


def kind(spec: AttackSpec, own: Kind) -> Kind:
    """How an attack gets at a file; `own` is how one does that follows the file's own gradients."""
    if facts(ATTACKS[spec.name]).differential:
        return "differential"
    if spec.source != "file":
        return "transfer"
    if facts(ATTACKS[spec.name]).access != "gradients":
        return "gradient-free"
    through = {wrapper.name for wrapper in spec.through}
    if "expectation" in through:
        return "expectation"
    if "joint" in through:
        return "joint"
    return own


def in_order(specs: Sequence[AttackSpec]) -> list[AttackSpec]:
    """Gradients of the file alone first, then other models', then none; the order within each is
    the given one.

    So an image that falls to a later kind is one that the earlier kinds could not break.
    """
    ranks = {"transfer": 1, "differential": 1, "gradient-free": 2}
    return sorted(specs, key=lambda spec: ranks.get(kind(spec, "white-box"), 0))


def label(spec: AttackSpec) -> str:
    """The name of an attack's row: `apgd-dlr`, `square`, `transfer from control`."""
    name = f"{spec.name}-{spec.params['loss']}" if "loss" in spec.params else spec.name
    through = "".join(f" through {wrapper.name}" for wrapper in spec.through)
    source = "" if spec.source == "file" else f" from {spec.source}"
    return f"{name}{through}{source}"


def labels(specs: Sequence[AttackSpec]) -> list[str]:
    """One row name per attack; those that would be equal carry their other parameters.

    Raises:
        ConfigError: Two attacks are the same in name and parameters.
    """
    short = [label(spec) for spec in specs]
    names = [
        name if short.count(name) == 1 else _long(spec)
        for name, spec in zip(short, specs, strict=True)
    ]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"attacks: got {name!r} twice, expected different attacks")
    return names


def _long(spec: AttackSpec) -> str:
    rest = [f"{key}={value}" for key, value in sorted(spec.params.items()) if key != "loss"]
    return " ".join([label(spec), *rest])
