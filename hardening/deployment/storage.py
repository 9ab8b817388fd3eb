"""Weights stored in fewer bits than they are computed with: 4-bit integers, float16."""

from typing import Literal

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from hardening.deployment.signature import graph_input, name_of
from hardening.deployment.untrusted import DOMAINS, read_model
from hardening.errors import ModelError
from hardening.evidence import Precision

FOUR_BIT_OPSET = 21
"""The first with 4-bit integers; beside new types it means what 20 means."""

QUANTIZERS = frozenset(
    {
        "ConvInteger",
        "DynamicQuantizeLinear",
        "MatMulInteger",
        "MatMulNBits",
        "QGemm",
        "QuantizeLinear",
    }
)
"""Operators, beside those with QLinear in their name, that put activations on a grid."""

FewBits = Literal[4, 3]
"""Of a weight; ONNX has no type of 3 bits, so these lie in 4."""

LARGEST: dict[FewBits, int] = {4: 7, 3: 3}
"""They are symmetric: with 4 bits -7 to 7 steps, up to the largest weight of an output channel."""

STAIRCASES = frozenset({"Ceil", "Floor", "Round", "Sign"})

FLOATS = frozenset(
    {TensorProto.BFLOAT16, TensorProto.DOUBLE, TensorProto.FLOAT, TensorProto.FLOAT16}
)
"""Types that a Cast to them does not truncate."""

SIZES = frozenset({"Shape", "Size"})
"""Operators that look at no value."""

OUTPUT_AXIS = {"Conv": 0, "Gemm": 0, "MatMul": -1}
"""Where a layer's stored weight counts output channels; of a Gemm if it is transposed."""


def precision(model: onnx.ModelProto) -> Precision:
    """int8 for a file that rounds activations, whatever its weights; else how it stores these."""
    kinds = {tensor.data_type for tensor in model.graph.initializer}
    operators = {node.op_type for node in model.graph.node}
    if any(name in QUANTIZERS or "QLinear" in name for name in operators):
        return "int8"
    if kinds & {TensorProto.INT4, TensorProto.UINT4}:
        return "int4"
    if "DequantizeLinear" in operators:
        return "int8"
    return "float16" if TensorProto.FLOAT16 in kinds else "float32"


def rounds(model: onnx.ModelProto) -> bool:
    """Whether anything made of the image's values is rounded: exact gradients would be zero."""
    reached = {graph_input(model.graph).name}
    for node in model.graph.node:
        if node.op_type in SIZES or not reached & {*node.input}:
            continue
        if node.op_type in STAIRCASES or _truncates(node):
            return True
        reached |= {*node.output}
    return precision(model) == "int8"


def _truncates(node: onnx.NodeProto) -> bool:
    return node.op_type == "Cast" and not any(
        entry.name == "to" and entry.i in FLOATS for entry in node.attribute
    )


def store_in_4_bits(data: bytes, bits: FewBits = 4) -> bytes:
    """ONNX bytes of a float file with the weights of its layers in 4 bits, a scale per channel.

    Size falls, speed does not: ONNX Runtime has no 4-bit convolution for CPUs. So the integers are
    cast and multiplied by their scales, which it does once, when the file is loaded; behind a
    DequantizeLinear it would do so in every call, at half the speed (ResNet-20 of 32 x 32 pixels,
    batch 32, ONNX Runtime 1.31). Activations and biases stay float32.

    Args:
        bits: With 3 a weight has 7 values instead of 15 and takes the same 4 bits of the file.

    Raises:
        ModelError: The bytes are refused, are not float32, or have no layer with stored weights.
    """
    model = _float(data)
    graph = model.graph
    weights = {t.name: t for t in graph.initializer if t.data_type == TensorProto.FLOAT}
    made: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        name = node.input[1] if node.op_type in OUTPUT_AXIS else ""
        if name in weights and name not in made and len(weights[name].dims) > 1:
            made[name] = _few_bits(graph, weights[name], output_axis(node), LARGEST[bits])
    if not made:
        raise ModelError(f"{name_of(data)}: no layer with stored weights, expected some")
    for entry in model.opset_import:
        if entry.domain in DOMAINS:
            entry.version = max(entry.version, FOUR_BIT_OPSET)
    return _finished(model, [node for nodes in made.values() for node in nodes], data)


def store_in_float16(data: bytes) -> bytes:
    """ONNX bytes of a float file with its tensors in float16, which are cast when it is loaded.

    Computation stays in float32, as ONNX Runtime's CPU kernels would have it anyway: size falls to
    half, speed does not change, and the logits of a file do not depend on the processor's float16.

    Raises:
        ModelError: The bytes are refused, are not float32, or a weight is too large for float16.
    """
    model = _float(data)
    casts = []
    for tensor in model.graph.initializer:
        if tensor.data_type != TensorProto.FLOAT or not tensor.dims:
            continue
        values, name = numpy_helper.to_array(tensor), tensor.name
        if np.abs(values).max(initial=0) > np.finfo(np.float16).max:
            raise ModelError(f"{name_of(data)}: tensor {name!r} is too large for float16")
        tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float16), f"{name}_half"))
        casts.append(_cast(tensor.name, name))
    return _finished(model, casts, data)


def output_axis(node: onnx.NodeProto) -> int:
    """Which axis of the second input of a Conv, Gemm or MatMul counts output channels."""
    transposed = any(entry.name == "transB" and entry.i for entry in node.attribute)
    return 1 if node.op_type == "Gemm" and not transposed else OUTPUT_AXIS[node.op_type]


def _float(data: bytes) -> onnx.ModelProto:
    model = read_model(data, name_of(data))
    if (got := precision(model)) != "float32":
        raise ModelError(f"{name_of(data)}: is stored in {got} already, expected float32")
    return model


def _few_bits(
    graph: onnx.GraphProto, tensor: TensorProto, axis: int, largest: int
) -> list[onnx.NodeProto]:
    """Replace a weight by integers and scales, in place; returns the nodes that make it again."""
    values, name = numpy_helper.to_array(tensor), tensor.name
    integers, scale = few_bit_integers(values, axis, largest)
    tensor.CopyFrom(packed(integers, f"{name}_integers"))
    graph.initializer.append(numpy_helper.from_array(scale, f"{name}_scale"))
    product = helper.make_node("Mul", [f"{name}_steps", f"{name}_scale"], [name], f"{name}_mul")
    return [_cast(f"{name}_integers", f"{name}_steps"), product]


def few_bit_integers(values: np.ndarray, axis: int, largest: int) -> tuple[np.ndarray, np.ndarray]:
    """Integers of at most `largest` like `values`, and float32 scales that broadcast with them."""
    others = tuple(i for i in range(values.ndim) if i != axis % values.ndim)
    reach = np.abs(values).max(others, keepdims=True)
    scale = np.maximum(reach / np.float32(largest), np.finfo(np.float32).tiny).astype(np.float32)
    return np.rint(values / scale).clip(-largest, largest).astype(np.int8), scale


def packed(integers: np.ndarray, name: str) -> TensorProto:
    """A tensor of 4-bit integers, two to a byte."""
    flat = integers.astype(np.int8).reshape(-1)
    pairs = np.append(flat, np.zeros(flat.size % 2, np.int8)).reshape(-1, 2) & 0xF
    raw = (pairs[:, 0] | (pairs[:, 1] << 4)).astype(np.uint8).tobytes()
    return helper.make_tensor(name, TensorProto.INT4, integers.shape, raw, raw=True)


def _cast(source: str, name: str) -> onnx.NodeProto:
    return helper.make_node("Cast", [source], [name], f"{name}_cast", to=TensorProto.FLOAT)


def _finished(model: onnx.ModelProto, first: list[onnx.NodeProto], data: bytes) -> bytes:
    """The bytes of `model` with nodes before all others."""
    nodes = [*first, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    stored = bytes(model.SerializeToString(deterministic=True))
    read_model(stored, f"{name_of(data)}, stored")
    return stored
