"""Activation bombs: a few bytes of ONNX that ask for gigabytes when they run."""

import math
from collections.abc import Mapping

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from hardening.deployment.signature import graph_input
from hardening.errors import ModelError

MAX_ACTIVATION = 1 << 24
"""Elements of one computed tensor, per image."""

MAX_TOTAL = 1 << 30
"""Elements of all computed tensors together, per image."""

GROWING = frozenset(
    {"CenterCropPad", "ConstantOfShape", "Expand", "OneHot", "Pad", "Range", "Resize", "Tile"}
    | {"Upsample"}
)
"""Operators whose output may be larger than anything in the file."""

MAX_COUNT = 1 << 31
"""Largest number that may tell one of them how much: sums of larger ones overflow."""


def check_activations(model: onnx.ModelProto, name: str, batch: int) -> None:
    """Refuse a `model`, shape-inferred at `batch`, with tensors that are or may become too large.

    Raises:
        ModelError: An activation, or all of them, are larger per image than they may be, or an
            operator makes one whose size cannot be told from the input's.
    """
    graph = model.graph
    _check_known(graph, name, batch)
    values = {value.name: value for value in (*graph.value_info, *graph.output)}
    stored = {tensor.name: tensor for tensor in graph.initializer}
    made = {output: node for node in graph.node for output in node.output if output}
    symbols = {size.dim_param for size in graph_input(graph).type.tensor_type.shape.dim} - {""}
    for node in graph.node:
        growing = node.op_type in GROWING
        if growing:
            _check_counts(node, made, stored, name)
        # With an image of known size, everything must be of known size.
        known = all(key in values and _is_sized(values[key], symbols) for key in node.output if key)
        if (growing or not symbols) and not known:
            raise ModelError(
                f"{name}: operator {node.op_type} makes a tensor whose size cannot be told "
                "before it runs"
            )


def _check_known(graph: onnx.GraphProto, name: str, batch: int) -> None:
    total = 0
    for value in (*graph.input[:1], *graph.value_info, *graph.output):
        sizes = [size.dim_value or 1 for size in value.type.tensor_type.shape.dim]
        elements = math.prod(sizes)
        total += elements
        if min(sizes, default=1) < 0 or elements > MAX_ACTIVATION * batch:
            raise ModelError(
                f"{name}: activation {value.name!r} has shape {sizes} at a batch of {batch}, "
                f"expected at most {MAX_ACTIVATION} elements per image"
            )
    if total > MAX_TOTAL * batch:
        raise ModelError(
            f"{name}: its activations have {total // batch} elements per image, "
            f"expected at most {MAX_TOTAL}"
        )


def _check_counts(
    node: onnx.NodeProto,
    makers: Mapping[str, onnx.NodeProto],
    stored: Mapping[str, TensorProto],
    name: str,
) -> None:
    for key in node.input[1:]:
        tensor = _constant(key, makers, stored)
        largest = 0.0 if tensor is None else float(np.abs(_floats(tensor)).max(initial=0))
        if largest > MAX_COUNT:
            raise ModelError(
                f"{name}: operator {node.op_type} is told {largest:g}, expected at most {MAX_COUNT}"
            )


def _constant(
    key: str, makers: Mapping[str, onnx.NodeProto], stored: Mapping[str, TensorProto]
) -> TensorProto | None:
    """The stored tensor called `key`, be it an initializer or a Constant's."""
    node = makers.get(key)
    if node is not None and node.op_type == "Constant" and node.attribute[0].name == "value":
        made: TensorProto = node.attribute[0].t
        return made
    return stored.get(key)


def _floats(tensor: TensorProto) -> np.ndarray:
    return numpy_helper.to_array(tensor).astype(np.float64)


def _is_sized(value: onnx.ValueInfoProto, symbols: set[str]) -> bool:
    tensor = value.type.tensor_type
    free = [size for size in tensor.shape.dim if not size.HasField("dim_value")]
    return tensor.HasField("shape") and all(size.dim_param in symbols for size in free)
