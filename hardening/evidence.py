"""Everything measured on one run, as plain data: what `evidence.json` holds.

A verdict is a pure function of it. Accuracies are fractions in [0, 1]; times are seconds unless a
name says otherwise; per-image lists are in the order of the evaluated test images.
"""

from typing import Literal

from pydantic import Field, JsonValue

from hardening.spec import Record
from hardening.threat import ThreatModel

SCHEMA_VERSION: Literal[1] = 1

Kind = Literal["white-box", "gradient-free", "transfer", "straight-through"]
"""How an attack gets at a model; a defense names the kinds that are due against it."""


class Accuracy(Record):
    """`correct` of `images`, with a 95 % Wilson interval."""

    correct: int
    images: int
    value: float
    lower: float
    upper: float


class AttackRow(Record):
    """What one attack achieved on the file, every success confirmed by the session.

    `source` names the model whose gradients or scores led the attack: the file itself (its twin)
    or the float parent; `source_survived` is what that model itself kept, per image, and
    `source_accuracy` its share. `survived` says, per evaluated image, whether the file stayed
    correct. `unconfirmed` images fooled the source and not the session.
    `forwards` and `backwards` are per image.
    """

    name: str
    attack: str
    params: dict[str, JsonValue]
    source: Literal["file", "parent"]
    kind: Kind
    accuracy: Accuracy
    survived: list[bool]
    mean_distance: float | None
    unconfirmed: int
    source_accuracy: float
    source_survived: list[bool] = Field(default_factory=list)
    forwards: float
    backwards: float
    seconds: float
    adversarial: str


class Point(Record):
    """One point of the curve: robust accuracy at `eps`, successes carried upward."""

    eps: float
    accuracy: Accuracy


class Latency(Record):
    """Milliseconds per call of the session at one batch size."""

    batch: int
    p50_ms: float
    p95_ms: float


class Parity(Record):
    """How far two forms of one model are apart on `images` inputs.

    `near_ties` are inputs whose two top logits are closer than twice the largest difference; only
    they may disagree.
    """

    images: int
    max_difference: float
    scale: float
    agreement: float
    near_ties: int


class Alarm(Record):
    """A sign that a robust accuracy may be wrong; `fired` ones make the verdict fail."""

    name: str
    fired: bool
    value: float | None
    limit: float
    meaning: str


class File(Record):
    """The file that ships: identity and how it was run."""

    sha256: str
    bytes: int
    precision: Literal["float32", "int8"]
    opset: int
    operators: dict[str, int]
    providers: list[str]
    threads: int
    optimization: str


class Example(Record):
    """One adversarial image of the gallery: indices into the evaluated images, and labels."""

    index: int
    attack: str
    label: int
    clean_prediction: int
    clean_confidence: float
    adversarial_prediction: int
    adversarial_confidence: float


class Evidence(Record):
    """Everything measured on one exported file.

    `survived` is the worst case per image: correct under every attack, and not fallen at a radius
    up to eps on the way to the curve (`falls_at`, in multiples of eps; none is known to suffice).
    """

    name: str
    role: Literal["control", "candidate", "champion"]
    defenses: list[dict[str, JsonValue]]
    due: list[Kind]
    file: File
    export_parity: Parity | None
    twin_parity: Parity
    clean: Accuracy
    correct: list[bool]
    attacks: list[AttackRow]
    robust: Accuracy
    survived: list[bool]
    falls_at: list[float | None] = Field(default_factory=list)
    curve: list[Point]
    alarms: list[Alarm]
    latency: list[Latency]
    training_seconds: float
    examples: list[Example]


class DataFacts(Record):
    """The dataset as it was checked and split."""

    name: str
    sha256: str
    training_sha256: str
    test_sha256: str
    shape: list[int]
    classes: list[str]
    counts: dict[str, int]
    checks: dict[str, JsonValue]


class RunEvidence(Record):
    """Everything one run measured, on one set of images."""

    schema_version: Literal[1] = SCHEMA_VERSION
    name: str
    seed: int
    config: dict[str, JsonValue]
    threat: ThreatModel
    data: DataFacts
    images: int
    image_indices_sha256: str
    environment: dict[str, str]
    models: dict[str, Evidence]


def contradiction(run: RunEvidence) -> str:
    """What in `run` does not follow from its own per-image outcomes; empty when all does.

    A verdict reads totals: totals that were edited, or cut off from their images, are no evidence.
    """
    if "control" not in run.models:
        return "models: got no control, expected the unhardened model"
    for name, model in run.models.items():
        columns = [row.survived for row in model.attacks]
        columns.append([fall is None or fall > 1 for fall in model.falls_at])
        if {len(column) for column in (*columns, model.correct, model.survived)} != {run.images}:
            return f"models.{name}: expected {run.images} outcomes for every attack"
        if model.survived != [all(column) for column in zip(*columns, strict=True)]:
            return f"models.{name}.survived: is not the worst case over its attacks"
        for field, outcomes in (("clean", model.correct), ("robust", model.survived)):
            said: Accuracy = getattr(model, field)
            if (said.correct, said.images) != (sum(outcomes), len(outcomes)) or (
                said.value != said.correct / said.images
            ):
                return f"models.{name}.{field}: got {said.value}, its images say otherwise"
    return ""
