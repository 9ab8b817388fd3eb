"""Everything measured on one run, as plain data: what `evidence.json` holds.

A verdict is a pure function of it. Accuracies are fractions in [0, 1]; times are seconds unless a
name says otherwise; per-image lists are in the order of the evaluated test images.
"""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, JsonValue

from hardening.spec import Record
from hardening.threat import Norm, ThreatModel

SCHEMA_VERSION: Literal[2] = 2

Kind = Literal[
    "white-box",
    "straight-through",
    "expectation",
    "bpda",
    "joint",
    "transfer",
    "differential",
    "gradient-free",
]
"""How an attack gets at a model; a defense names the kinds that are due against it."""


Precision = Literal["float32", "float16", "int8", "int4"]
"""Of a file: int8 ones compute with integers, float16 and int4 ones only store weights so."""

QUANTIZED: frozenset[Precision] = frozenset({"int8", "int4"})
"""What was rounded enough to answer differently from the float32 file it was made from."""


def _listed(value: object) -> object:
    """A default may be a tuple; JSON has lists alone."""
    if isinstance(value, dict):
        return {key: _listed(inner) for key, inner in value.items()}
    return [_listed(inner) for inner in value] if isinstance(value, list | tuple) else value


Params = Annotated[dict[str, JsonValue], BeforeValidator(_listed)]
"""Hyper-parameters as they were resolved."""


class Accuracy(Record):
    """`correct` of `images`, with a 95 % Wilson interval."""

    correct: int
    images: int
    value: float
    lower: float
    upper: float


class Fooling(Record):
    """Shares of the images that were right whose label changes.

    Under one perturbation for all, fitted on other images, and under random noise of the same norm.
    """

    images: int
    universal: float
    noise: float


class Disagreement(Record):
    """How far a quantized file parts from its float32 `parent` (a digest), both run as sessions.

    Of `images`, `flips` get another label as they are, and `evasive` ones were moved, within the
    threat model, to where the file is wrong and its parent right.
    """

    parent: str
    images: int
    flips: int
    evasive: int


class AttackRow(Record):
    """What one attack achieved on the file, every success confirmed by the session.

    Attacks run one after the other, each on the images that still stand: gradients first, then
    transfer, then attacks without gradients. So what falls to a row had withstood those above it.
    `source` names the model whose gradients or scores led the attack: `file` (its twin) or another
    one. `fell` are the images that fell to it, `step` the forward passes each had seen by then
    and `distance` how far each was moved. `accuracy` is what stands after it, of all images.
    A `sampled` row is a detector: in some shard it met only a sample of the images that stood, none
    of which fell there.
    `unconfirmed` images fool the source and not the session; `lost_in_8_bits` are those that fell
    and would not have when stored with 8 bits a channel. Passes are per attacked image:
    `budget_forwards` and `budget_backwards` for one that never falls, `forwards` and `backwards`
    as spent. The budget is shared among `starts` searches: restarts, times classes aimed at;
    in it, the draws that make one answer of a random model count as one pass.
    """

    name: str
    attack: str
    params: Params
    source: str
    through: list[dict[str, JsonValue]] = Field(default_factory=list)
    kind: Kind
    accuracy: Accuracy
    attacked: int
    sampled: bool
    fell: list[int]
    step: list[int]
    distance: list[float]
    unconfirmed: int
    lost_in_8_bits: int
    fooling: Fooling | None = None
    disagreement: Disagreement | None = None
    forwards: float
    backwards: float
    budget_forwards: int
    budget_backwards: int
    starts: int = 1
    seconds: float
    adversarial: list[str]


class Point(Record):
    """One point of the curve: robust accuracy at `eps`, successes carried upward.

    The last point of a curve is `unbounded`: any change within the pixel range.
    """

    eps: float
    accuracy: Accuracy
    unbounded: bool = False


class Latency(Record):
    """Milliseconds per call of the session at one batch size, on one thread."""

    batch: int
    p50_ms: float
    p95_ms: float
    images_per_second: float | None = None


class Memory(Record):
    """What a process that runs the file on one thread needs for it at most, in bytes.

    The rise of its resident memory from before it loads the file to the peak, with `batch` images
    in a call.
    """

    batch: int
    peak_bytes: int


class Parity(Record):
    """How far two forms of one model are apart on `images` inputs.

    Of these, `random` ones are uniform noise in [0, 1] and `adversarial` ones were made through a
    twin within the threat model; the others are clean. `near_ties` are inputs whose two top logits
    are closer than twice the largest difference among inputs of their kind; only they may disagree.
    """

    images: int
    random: int = 0
    adversarial: int = 0
    max_difference: float
    scale: float
    agreement: float
    near_ties: int


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


class File(Record):
    """The file that ships: identity and how it was run.

    `sha256` is that of the attacked bytes, `graph_sha256` that of their graph, which is also that
    of the shipped file: its metadata tell what was measured. Evidence older than it has none.
    `rounds` says that something made of the image is rounded on the way to the logits.
    """

    sha256: str
    graph_sha256: str = ""
    bytes: int
    precision: Precision
    rounds: bool = False
    opset: int
    operators: dict[str, int]
    providers: list[str]
    threads: int
    optimization: str

    @property
    def identity(self) -> str:
        """What two files have in common that compute the same."""
        return self.graph_sha256 or self.sha256

    @property
    def gradients(self) -> Kind:
        """The kind of an attack that follows the file's own gradients.

        Those of a rounding are a stand-in: what makes it quantized or, in a float file, what a
        defense has put there, is passed by.
        """
        if self.precision in QUANTIZED:
            return "straight-through"
        return "bpda" if self.rounds else "white-box"


class Example(Record):
    """One adversarial image of the gallery: indices into the evaluated images, and labels."""

    index: int
    attack: str
    label: int
    clean_prediction: int
    clean_confidence: float
    adversarial_prediction: int
    adversarial_confidence: float


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


class Distances(Record):
    """How far the nearest adversarial image found is, per image of a sample: none where unknown.

    0 for an image that is wrong as it is. An upper bound on the true distance, in the threat's
    norm.
    """

    attack: str
    params: Params
    values: list[float | None]


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
