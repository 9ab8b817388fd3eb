"""What is in an ONNX file: ends, operators, and how many bits its weights have."""

import hashlib
from collections import Counter
from collections.abc import Mapping

import onnx
from onnx import TensorProto

from hardening.deployment.contract import KEY, Contract, contract_of
from hardening.deployment.contrib import DOMAIN
from hardening.deployment.ends import forms
from hardening.deployment.signature import graph_input, graph_output, graph_sha256
from hardening.deployment.tensors import BITS, kind_of
from hardening.deployment.untrusted import DOMAINS, parse, read_model
from hardening.spec import Record

WEIGHT: dict[str, int] = {
    "Conv": 1,
    "ConvInteger": 1,
    "ConvTranspose": 1,
    "Gemm": 1,
    "MatMul": 1,
    "MatMulInteger": 1,
    "QGemm": 3,
    "QLinearConv": 3,
    "QLinearMatMul": 3,
}
"""Operators with weights, and which of their inputs that is."""

PASSING = frozenset({"Cast", "DequantizeLinear", "Identity", "Reshape", "Transpose"})
"""Operators through which weights go without becoming others."""


class Layer(Record):
    """A node with stored weights; `integer` says that what it reads is quantized, too."""

    node: str
    operator: str
    bits: int
    integer: bool


class Anatomy(Record):
    """A file that passed the gate. Shapes have names or `?` where the file leaves a size open.

    `contract` is what it carries, `output` the one of its `outputs` that answers: none where there
    are several, any of `candidates` may, and the file does not say which one.
    """

    sha256: str
    graph_sha256: str
    bytes: int
    opset: int
    producer: str
    contract: Contract | None
    input: str
    outputs: list[str]
    output: str | None
    candidates: list[str]
    operators: dict[str, int]
    parameters: int
    layers: list[Layer]


def dissect(data: bytes, name: str) -> Anatomy:
    """Look at `data` without running it.

    Raises:
        ModelError: As `read_model` and `forms`.
    """
    known = forms(data, name)
    models = [read_model(form, name) for form in known]
    whole = parse(data, name)
    # What answers is all that counts, if that is known; else every node may.
    model = models[0] if known == [data] else whole
    graph = model.graph
    carries = any(entry.key == KEY for entry in whole.metadata_props)
    candidates = [graph_output(read).name for read in models]
    makers = {output: node for node in graph.node for output in node.output}
    stored = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            stored[node.output[0]] = node.attribute[0].t
    layers = [found for node in graph.node if (found := _layer(node, makers, stored))]
    return Anatomy(
        sha256=hashlib.sha256(data).hexdigest(),
        graph_sha256=graph_sha256(data),
        bytes=len(data),
        opset=next(entry.version for entry in model.opset_import if entry.domain in DOMAINS),
        producer=f"{model.producer_name} {model.producer_version}".strip(),
        contract=contract_of(whole, name) if carries else None,
        input=_end(graph_input(graph)),
        outputs=[_end(value) for value in whole.graph.output],
        output=_end(graph.output[0]) if known == [data] else None,
        candidates=candidates,
        operators=dict(sorted(Counter(map(_operator, graph.node)).items())),
        parameters=sum(_elements(tensor) for tensor in stored.values()),
        layers=layers,
    )


def _layer(
    node: onnx.NodeProto,
    makers: Mapping[str, onnx.NodeProto],
    stored: Mapping[str, TensorProto],
) -> Layer | None:
    name = node.name or node.output[0]
    if node.op_type == "MatMulNBits":
        bits = next((entry.i for entry in node.attribute if entry.name == "bits"), 4)
        return Layer(node=name, operator=node.op_type, bits=bits, integer=False)
    place = WEIGHT.get(node.op_type, len(node.input))
    if place >= len(node.input):
        return None
    weight = _origin(node.input[place], makers, stored)
    if weight is None:
        return None
    maker = makers.get(node.input[0])
    dequantized = maker is not None and maker.op_type == "DequantizeLinear"
    integer = dequantized or node.op_type.startswith("Q") or node.op_type.endswith("Integer")
    bits = BITS[weight.data_type]
    return Layer(node=name, operator=node.op_type, bits=bits, integer=integer and bits <= 8)


def _origin(
    key: str, makers: Mapping[str, onnx.NodeProto], stored: Mapping[str, TensorProto]
) -> TensorProto | None:
    """The stored tensor behind a name, if there is one; a checked graph has no cycles."""
    while key not in stored:
        node = makers.get(key)
        if node is None or node.op_type not in PASSING:
            return None
        key = node.input[0]
    return stored[key]


def _operator(node: onnx.NodeProto) -> str:
    return f"{DOMAIN}:{node.op_type}" if node.domain == DOMAIN else str(node.op_type)


def _end(value: onnx.ValueInfoProto) -> str:
    tensor = value.type.tensor_type
    sizes = [str(size.dim_value or size.dim_param or "?") for size in tensor.shape.dim]
    return f"{value.name}: {kind_of(tensor.elem_type)} ({', '.join(sizes)})"


def _elements(tensor: TensorProto) -> int:
    size = 1
    for part in tensor.dims:
        size *= part
    return size
