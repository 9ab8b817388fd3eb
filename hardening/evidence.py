"""Everything measured on one run, as plain data: what `evidence.json` holds.

A verdict is a pure function of it. Accuracies are fractions in [0, 1]; times are seconds unless a
name says otherwise; per-image lists are in the order of the evaluated test images.
"""

from typing import Literal

from pydantic import Field, JsonValue

from hardening.outcomes import (
    Accuracy,
    AttackRow,
    Disagreement,
    Distances,
    Example,
    Fooling,
    Kind,
    Params,
    Point,
)
from hardening.shipped import QUANTIZED, File, Latency, Memory, Parity, Precision
from hardening.spec import Record
from hardening.threat import Norm, ThreatModel

__all__ = [
    "QUANTIZED",
    "SCHEMA_VERSION",
    "Accuracy",
    "Alarm",
    "AttackRow",
    "Certificate",
    "ChecklistItem",
    "DataFacts",
    "Decision",
    "Disagreement",
    "Distances",
    "Evidence",
    "Example",
    "File",
    "Fooling",
    "Kind",
    "Latency",
    "Memory",
    "Params",
    "Parity",
    "Point",
    "Precision",
    "RunEvidence",
    "Survey",
]

SCHEMA_VERSION: Literal[2] = 2


class Alarm(Record):
    """A sign that a robust accuracy may be wrong; `fired` ones make the verdict fail.

    `gate` is its number in the catalogue, `value` what was measured on `images` images (none where
    the gate does not apply), `detail` the figures behind it, `meaning` and `advice` say what a
    reader should think and do.
    """

    gate: str
    name: str
    fired: bool
    value: float | None
    limit: float
    images: int
    meaning: str
    advice: str
    detail: str = ""


class ChecklistItem(Record):
    """One item of Carlini et al.'s checklist (https://arxiv.org/abs/1902.06705) on this run."""

    item: str
    section: Literal["severe", "pitfalls", "special"]
    state: Literal["passed", "failed", "not run", "to state"]
    text: str


class Certificate(Record):
    """A lower bound of robust accuracy that no attack can undercut.

    `subject` says of what: the file, or the smoothed classifier, which is another one: only a
    certificate of the file may be held against attacks on the file. `certified` images are
    classified rightly at every point within `eps` of `norm`, the threat model's; `abstained` ones
    are those of which the method says nothing. `radii` are certified radii in `radius_norm`, 0 for
    images without one. `text` is what a reader must know; `figures` are the method's numbers.
    """

    method: str
    subject: Literal["file", "smoothed classifier"]
    text: str
    norm: Norm
    eps: float
    certified: list[bool]
    abstained: list[bool]
    accuracy: Accuracy
    radius_norm: Norm
    radii: list[float]
    figures: dict[str, float]


class Survey(Record):
    """Accuracy under changes beyond the threat model; reported beside the headline, not in it."""

    survey: str
    params: Params
    conditions: dict[str, Accuracy]
    seconds: float


Status = Literal["SOLID", "AT-BASED", "TRANSFER-ONLY", "BROKEN", "CERTIFIED", "NO DEFENSE"]
"""What the literature holds of a defense; `NO DEFENSE` is what only prepares another link of the
chain, which then gives the status."""


class Declared(Record):
    """What one defense of a model's chain says about itself, before anything is measured."""

    defense: str
    mechanism: str
    status: Status
    claim: str


class Naive(Record):
    """What an evaluation that does not know the defense would report, after one attack.

    It follows the plain gradients of the module before export: through one draw of a random model,
    through rounding as it is, past whatever stands beside the classifier. No verdict reads it.
    """

    attack: str
    params: dict[str, JsonValue]
    accuracy: Accuracy


class Decision(Record):
    """A gate's robust accuracy decided before all images were attacked, at an error level."""

    limit: float
    error: float
    images: int
    of: int
    models: dict[str, str]


class Evidence(Record):
    """Everything measured on one exported file, or on a model that does not survive export.

    Of such a model `ships` says why, and what ships instead; the model itself cannot be promoted.

    `survived` is the worst case per image: correct, fallen to no attack, to none of the probes
    behind alarms and distances (`probed` are those that fell to these alone), and not fallen at a
    radius up to eps on the way to the curve (`falls_at`, in multiples of eps; none is known to
    suffice).
    `notes` say what a reader must know of how it was measured: why it has no twin, and so no
    `twin_parity`, say. `choices` say what its defenses chose for the user, and why. `passes` is
    what training it cost in backward passes for one training image, where that can be counted.
    """

    name: str
    role: Literal["control", "candidate", "champion"]
    defenses: list[dict[str, JsonValue]]
    declared: list[Declared] = Field(default_factory=list)
    passes: float | None = None
    due: list[Kind]
    ships: str = ""
    file: File
    export_parity: Parity | None
    twin_parity: Parity | None
    notes: list[str] = Field(default_factory=list)
    choices: list[str] = Field(default_factory=list)
    clean: Accuracy
    correct: list[bool]
    attacks: list[AttackRow]
    robust: Accuracy
    survived: list[bool]
    probed: list[int] = Field(default_factory=list)
    falls_at: list[float | None] = Field(default_factory=list)
    curve: list[Point]
    distances: Distances | None = None
    surveys: list[Survey] = Field(default_factory=list)
    certificates: list[Certificate] = Field(default_factory=list)
    naive: list[Naive] = Field(default_factory=list)
    alarms: list[Alarm]
    checklist: list[ChecklistItem] = Field(default_factory=list)
    latency: list[Latency]
    memory: Memory | None = None
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

    schema_version: Literal[2] = SCHEMA_VERSION
    name: str
    seed: int
    config: dict[str, JsonValue]
    threat: ThreatModel
    data: DataFacts
    images: int
    image_indices_sha256: str
    environment: dict[str, str]
    decision: Decision | None = None
    models: dict[str, Evidence]
