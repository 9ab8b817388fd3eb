"""Activation bombs: a few bytes of ONNX that ask for gigabytes when they run."""

import math
from collections.abc import Mapping

import onnx
from onnx import numpy_helper

from hardening.deployment.signature import graph_input
from hardening.errors import ModelError

MAX_ACTIVATION = 1 << 24
"""Elements of one computed tensor, per image."""

GROWING = frozenset(
    {"CenterCropPad", "ConstantOfShape", "Expand", "OneHot", "Pad", "Range", "Resize", "Tile"}
)
"""Operators whose output may be larger than anything in the file."""

READING = frozenset({"Gather", "Identity", "Slice", "Squeeze", "Unsqueeze"})
"""Operators that pick sizes out of a shape."""


def check_sizes(model: onnx.ModelProto, name: str) -> None:
    """Refuse a shape-inferred `model` with tensors that are too large, or that may become so.

    Raises:
        ModelError: An activation is larger than `MAX_ACTIVATION` per image, or an operator makes
            one whose size depends on more than the batch.
    """
    graph = model.graph
    values = {value.name: value for value in (*graph.value_info, *graph.output)}
    stored = {tensor.name: tensor for tensor in graph.initializer}
    for key, value in values.items():
        sizes = [size.dim_value or 1 for size in value.type.tensor_type.shape.dim]
        if key not in stored and math.prod(sizes) > MAX_ACTIVATION:
            raise ModelError(
                f"{name}: activation {key!r} has shape {sizes} per image, "
                f"expected at most {MAX_ACTIVATION} elements"
            )
    free = graph_input(graph).type.tensor_type.shape.dim
    symbols = {size.dim_param for size in free if size.dim_param}
    makers = {output: node for node in graph.node for output in node.output}
    for node in graph.node:
        if node.op_type not in GROWING or _counts_a_shape(node, makers, stored):
            continue
        if not all(key in values and _is_sized(values[key], symbols) for key in node.output):
            raise ModelError(
                f"{name}: operator {node.op_type} makes a tensor whose size cannot be told "
                "before it runs"
            )


def _is_sized(value: onnx.ValueInfoProto, symbols: set[str]) -> bool:
    tensor = value.type.tensor_type
    free = [size for size in tensor.shape.dim if not size.HasField("dim_value")]
    return tensor.HasField("shape") and all(size.dim_param in symbols for size in free)


def _counts_a_shape(
    node: onnx.NodeProto,
    makers: Mapping[str, onnx.NodeProto],
    stored: Mapping[str, onnx.TensorProto],
) -> bool:
    """Whether `node` is Range(0, a size of some tensor, 1), which exporters write for indices."""
    if node.op_type != "Range" or node.input[0] not in stored or node.input[2] not in stored:
        return False
    start, step = (numpy_helper.to_array(stored[node.input[place]]) for place in (0, 2))
    limit = makers.get(node.input[1])
    while limit is not None and limit.op_type in READING:
        limit = makers.get(limit.input[0])
    return bool(start == 0 and step == 1 and limit is not None and limit.op_type == "Shape")
