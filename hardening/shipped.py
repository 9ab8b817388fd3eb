"""The file that ships: what it is, how it is run, what running it costs."""

from typing import Literal

from hardening.outcomes import Kind
from hardening.spec import Record

Precision = Literal["float32", "float16", "int8", "int4"]
"""Of a file: int8 ones compute with integers, float16 and int4 ones only store weights so."""

QUANTIZED: frozenset[Precision] = frozenset({"int8", "int4"})
"""What was rounded enough to answer differently from the float32 file it was made from."""


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
