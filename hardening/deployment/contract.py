"""How an ONNX file wants its images and what its answers mean: written into the file itself.

Shapes: B images, C channels, H x W pixels, K classes.
"""

from collections.abc import Iterator
from math import exp
from typing import Annotated, Literal, Self

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx import helper
from pydantic import Field, ValidationError, model_validator
from torch import Tensor

from hardening.errors import ModelError
from hardening.spec import Record, one_line

KEY = "temper.contract"
"""Of the one entry among the file's metadata that holds the contract, as JSON."""

FLOOR = -80.0
"""Least logarithm of a probability: float32 holds no much smaller ones, and their logarithm must
be finite. One number for every form of a file."""

SOFTMAX = frozenset({"Softmax", "LogSoftmax"})

SQUASHING = SOFTMAX | {"Sigmoid"}
"""Last operators that keep the order of the classes, and lose it and their gradient where they
saturate."""

UNCHANGING = frozenset({"Dropout", "Flatten", "Identity", "Reshape", "Squeeze"})
"""Operators that exporters leave behind one and that change no number."""

ROUNDING = frozenset({"DequantizeLinear", "QuantizeLinear"})

Layout = Literal["NCHW", "NHWC"]
Range = Literal["0..1", "0..255"]
Outputs = Literal["logits", "probabilities", "log-probabilities"]
Means = Annotated[list[float], Field(min_length=1, max_length=4)]
Spreads = Annotated[list[Annotated[float, Field(gt=0)]], Field(min_length=1, max_length=4)]


class Contract(Record):
    """What to do with images (B, C, H, W) in [0, 1] before a file sees them, and with its answers.

    The file is fed (x * scale - mean) / std in its layout, where scale is 255 if its range is
    0..255 and 1 otherwise: `mean` and `std` are in the units of `range`. Defaults are what this
    project exports.
    """

    layout: Layout = Field(default="NCHW", description="order of the file's input")
    range: Range = Field(default="0..1", description="what the file's pixels run over")
    mean: Means | None = Field(default=None, description="per channel, in the units of range")
    std: Spreads | None = Field(default=None, description="per channel, in the units of range")
    input: str | None = Field(default=None, description="name of the input, to be sure of it")
    output: str | None = Field(default=None, description="which output, if there are several")
    outputs: Outputs = Field(default="logits", description="what the output holds")

    @model_validator(mode="after")
    def _both(self) -> Self:
        if (self.mean is None) != (self.std is None):
            raise ValueError("mean and std: got one of them, expected both or none")
        if self.mean and self.std and len(self.mean) != len(self.std):
            got = f"{len(self.mean)} and {len(self.std)}"
            raise ValueError(f"mean and std: got {got} numbers, expected one for each channel")
        return self


def contract_of(model: onnx.ModelProto, name: str = "ONNX file") -> Contract:
    """The contract that the file carries; the default one if it carries none.

    Raises:
        ModelError: It carries several, or one that is not understood; the text starts with `name`.
    """
    found = [entry.value for entry in model.metadata_props if entry.key == KEY]
    if len(found) > 1:
        raise ModelError(f"{name}: got {len(found)} entries {KEY}, expected at most one")
    try:
        return Contract.model_validate_json(found[0]) if found else Contract()
    except ValidationError as error:
        raise ModelError(one_line(error, f"{name}: {KEY}")) from error


def with_contract(data: bytes, contract: Contract, name: str = "ONNX file") -> bytes:
    """The file with `contract` in it, byte for byte the same before that entry.

    Fields that `contract` leaves unset are those that the file carries.

    Args:
        name: What errors call the file.

    Raises:
        ModelError: The bytes are no ONNX file, or one that carries another contract.
    """
    try:
        model = onnx.load_model_from_string(data)
    except DecodeError as error:
        raise ModelError(f"{name}: not an ONNX file, or a truncated one") from error
    carried = contract_of(model, name)
    if any(entry.key == KEY for entry in model.metadata_props):
        wanted = carried.model_copy(update=contract.model_dump(exclude_unset=True))
        if wanted != carried:
            raise ModelError(
                f"{name}: carries the contract {_text(carried)}, got {_text(wanted)} as model"
            )
        return data
    if contract == Contract():
        return data
    # The fields of one protobuf message after those of another are one message with both.
    entry = onnx.ModelProto()
    helper.set_model_props(entry, {KEY: _text(contract)})
    return data + bytes(entry.SerializeToString())


def prepare(x: Tensor, contract: Contract) -> Tensor:
    """Images (B, C, H, W) in [0, 1] as the file wants them; differentiable."""
    if contract.range == "0..255":
        x = x * 255
    if contract.mean is not None and contract.std is not None:
        mean, std = (
            x.new_tensor(values)[:, None, None] for values in (contract.mean, contract.std)
        )
        x = (x - mean) / std
    return x.permute(0, 2, 3, 1).contiguous() if contract.layout == "NHWC" else x


def images_of(fed: Tensor, contract: Contract) -> Tensor:
    """Inverse of `prepare`, to float rounding: the images (B, C, H, W) in [0, 1]."""
    x = fed.permute(0, 3, 1, 2) if contract.layout == "NHWC" else fed
    if contract.mean is not None and contract.std is not None:
        mean, std = (
            x.new_tensor(values)[:, None, None] for values in (contract.mean, contract.std)
        )
        x = x * std + mean
    return x / 255 if contract.range == "0..255" else x


def as_logits(answers: Tensor, contract: Contract, name: str) -> Tensor:
    """Logits (B, K) of what the file answered; of probabilities their logarithm, floored.

    The floor and what lies under it pass gradients: a file that is sure is not a robust one.

    Raises:
        ModelError: The answers were to be probabilities and are none.
    """
    if contract.outputs != "probabilities":
        return answers
    low, high = (float(end) for end in answers.detach().aminmax())
    if low < -1e-5 or high > 1 + 1e-5:
        raise ModelError(
            f"{name}: got answers in [{low:.4g}, {high:.4g}], expected [0, 1] "
            "as model.outputs says probabilities"
        )
    return floored(_at_least(answers, exp(FLOOR)).log())


def floored(logarithms: Tensor) -> Tensor:
    """Logarithms of probabilities (B, K), at least `FLOOR`; their gradient passes it."""
    return _at_least(logarithms, FLOOR)


def last_squashing(graph: onnx.GraphProto, output: str) -> onnx.NodeProto | None:
    """The Softmax, LogSoftmax or Sigmoid whose answers are `output`, unchanged; None if none is."""
    node = next(reversed([*_backwards(graph, output, UNCHANGING)]), None)
    return node if node is not None and node.op_type in SQUASHING else None


def logits_at(graph: onnx.GraphProto, output: str) -> str:
    """The tensor that holds the logits: what a last Sigmoid reads, else `output` itself.

    In float32 every logit above 17 is 1 behind a Sigmoid, and no gradient is left there. Rounding
    behind it may change the order of the classes: then the output itself holds the logits.
    """
    node = last_squashing(graph, output)
    return str(node.input[0]) if node is not None and node.op_type == "Sigmoid" else output


def softmax_tail(graph: onnx.GraphProto, output: str) -> set[str]:
    """What the last softmax answers and what only hands it on, `output` among it, by name."""
    return {node.output[0] for node in _backwards(graph, output, UNCHANGING)}


def check_channels(contract: Contract, channels: int, name: str) -> None:
    """Refuse a normalisation for another number of channels; 0 is one that nobody knows.

    Raises:
        ModelError: `mean` and `std` are as long as no image has channels.
    """
    if channels and contract.mean is not None and len(contract.mean) != channels:
        raise ModelError(
            f"{name}: got {len(contract.mean)} numbers as model.mean and model.std, expected "
            f"{channels}, one for each channel"
        )


def _backwards(
    graph: onnx.GraphProto, output: str, passed: frozenset[str]
) -> Iterator[onnx.NodeProto]:
    """The makers of `output`, last one first, up to the first that is none of `passed`."""
    makers = {name: node for node in graph.node for name in node.output}
    node = makers.get(output)
    while node is not None:
        yield node
        node = makers.get(node.input[0]) if node.op_type in passed else None


def _at_least(x: Tensor, least: float) -> Tensor:
    return x.detach().clamp(min=least) + (x - x.detach())


def _text(contract: Contract) -> str:
    return contract.model_dump_json(exclude_none=True)
