"""What attacks left of one exported file: accuracies, rows, distances, pictures."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, JsonValue

from hardening.spec import Record

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


class Distances(Record):
    """How far the nearest adversarial image found is, per image of a sample: none where unknown.

    0 for an image that is wrong as it is. An upper bound on the true distance, in the threat's
    norm.
    """

    attack: str
    params: Params
    values: list[float | None]


class Example(Record):
    """One adversarial image of the gallery: indices into the evaluated images, and labels."""

    index: int
    attack: str
    label: int
    clean_prediction: int
    clean_confidence: float
    adversarial_prediction: int
    adversarial_confidence: float
