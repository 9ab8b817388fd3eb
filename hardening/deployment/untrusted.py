"""The gate for ONNX bytes of unknown origin: what cannot be vouched for is refused."""

import math

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx import TensorProto

from hardening.deployment.sizes import check_sizes
from hardening.errors import ModelError

MAX_BYTES = 512 << 20
MAX_NODES = 5000
MAX_TENSOR = 1 << 28
"""Elements of one stored tensor."""

DOMAINS = frozenset({"", "ai.onnx"})

CONTROL_FLOW = frozenset({"If", "Loop", "Scan", "SequenceMap"})

RANDOM = frozenset(
    {
        "Bernoulli",
        "Multinomial",
        "RandomNormal",
        "RandomNormalLike",
        "RandomUniform",
        "RandomUniformLike",
    }
)

WIDTHS: dict[int, float] = {
    TensorProto.FLOAT: 4,
    TensorProto.UINT8: 1,
    TensorProto.INT8: 1,
    TensorProto.INT32: 4,
    TensorProto.INT64: 8,
    TensorProto.BOOL: 1,
    TensorProto.FLOAT16: 2,
    TensorProto.BFLOAT16: 2,
    TensorProto.DOUBLE: 8,
    TensorProto.INT4: 0.5,
    TensorProto.UINT4: 0.5,
}
"""Bytes of one element, for the types a tensor may have."""

HALF_BYTES = frozenset({TensorProto.INT4, TensorProto.UINT4})
"""Two elements share a byte; an odd number of them is padded."""


def read_model(data: bytes, name: str) -> onnx.ModelProto:
    """Parse ONNX `data` without executing, fetching or trusting any of it.

    Accepted is one self-contained graph of standard operators, deterministic, without control
    flow, that maps one float tensor (batch, C, H, W) with a free batch to one (batch, K), and
    whose tensors are as large as they say and not absurdly so.

    Raises:
        ModelError: Anything else; the text starts with `name`.
    """
    model = _parse(data, name)
    graph = model.graph
    if len(graph.node) > MAX_NODES:
        raise ModelError(f"{name}: got {len(graph.node)} nodes, expected at most {MAX_NODES}")
    if model.functions or model.training_info or graph.sparse_initializer:
        raise ModelError(f"{name}: functions, training info or sparse tensors are not accepted")
    for node in graph.node:
        _check_node(node, name)
    for tensor in graph.initializer:
        _check_tensor(tensor, name)
    inferred = _infer(model, name)
    _check_signature(inferred, name)
    check_sizes(inferred, name)
    return model


def _parse(data: bytes, name: str) -> onnx.ModelProto:
    if len(data) > MAX_BYTES:
        raise ModelError(f"{name}: got {len(data)} bytes, expected at most {MAX_BYTES}")
    try:
        model = onnx.load_model_from_string(data)
    except DecodeError as error:
        raise ModelError(f"{name}: not an ONNX file, or a truncated one") from error
    if not model.graph.node:
        raise ModelError(f"{name}: no ONNX graph in {len(data)} bytes")
    return model


def _check_node(node: onnx.NodeProto, name: str) -> None:
    operator = f"{node.domain}:{node.op_type}" if node.domain else node.op_type
    if node.domain not in DOMAINS:
        raise ModelError(f"{name}: operator {operator}, expected only standard ONNX operators")
    if node.op_type in CONTROL_FLOW or any(_has_graph(entry) for entry in node.attribute):
        raise ModelError(f"{name}: operator {operator} holds a sub-graph, expected a plain graph")
    if node.op_type in RANDOM:
        raise ModelError(f"{name}: operator {operator} is random, expected a deterministic graph")
    # Dropout's third input, when there is one, switches it on.
    dropping = node.op_type == "Dropout" and len(node.input) > 2 and node.input[2]
    if dropping or any(entry.name == "training_mode" and entry.i for entry in node.attribute):
        raise ModelError(f"{name}: operator {operator} is in training mode, expected inference")
    for entry in node.attribute:
        for tensor in (*([entry.t] if entry.HasField("t") else []), *entry.tensors):
            _check_tensor(tensor, name)


def _has_graph(entry: onnx.AttributeProto) -> bool:
    return entry.HasField("g") or bool(entry.graphs) or entry.HasField("sparse_tensor")


def _check_tensor(tensor: TensorProto, name: str) -> None:
    where = f"{name}: tensor {tensor.name!r}"
    if tensor.data_location == TensorProto.EXTERNAL or tensor.external_data:
        raise ModelError(f"{where} points to another file, expected its data inside")
    if tensor.data_type not in WIDTHS:
        kind = TensorProto.DataType.Name(tensor.data_type)
        raise ModelError(f"{where} is of type {kind}, expected numbers of 4 bits or more")
    if any(size < 0 for size in tensor.dims) or math.prod(tensor.dims) > MAX_TENSOR:
        raise ModelError(
            f"{where} has shape {list(tensor.dims)}, expected at most {MAX_TENSOR} elements"
        )
    stored, padding = _stored(tensor), tensor.data_type in HALF_BYTES and math.prod(tensor.dims) % 2
    if stored != math.prod(tensor.dims) + padding:
        raise ModelError(f"{where} has shape {list(tensor.dims)} but holds {stored:g} elements")


def _stored(tensor: TensorProto) -> float:
    """Number of elements that are really in the file."""
    if tensor.HasField("raw_data"):
        return float(len(tensor.raw_data) / WIDTHS[tensor.data_type])
    typed = (tensor.float_data, tensor.int32_data, tensor.int64_data, tensor.double_data)
    each = 2 if tensor.data_type in HALF_BYTES else 1
    return each * sum(len(field) for field in typed)


def _infer(model: onnx.ModelProto, name: str) -> onnx.ModelProto:
    try:
        onnx.checker.check_model(model, full_check=True)
        return onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ModelError(f"{name}: not a valid ONNX graph: {reason}") from error


def _check_signature(model: onnx.ModelProto, name: str) -> None:
    stored = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in stored]
    for what, values, rank, shape in (
        ("input", inputs, 4, "(batch, C, H, W)"),
        ("output", model.graph.output, 2, "(batch, K)"),
    ):
        if len(values) != 1:
            names = [value.name for value in values]
            raise ModelError(f"{name}: got {what}s {names}, expected exactly one {what}")
        tensor = values[0].type.tensor_type
        sizes = [size.dim_value or size.dim_param or "?" for size in tensor.shape.dim]
        if tensor.elem_type != TensorProto.FLOAT or len(sizes) != rank:
            kind = TensorProto.DataType.Name(tensor.elem_type)
            raise ModelError(f"{name}: {what} is {kind} {sizes}, expected FLOAT {shape}")
        if tensor.shape.dim[0].dim_value:
            raise ModelError(f"{name}: {what} has a fixed batch, got {sizes}, expected {shape}")
