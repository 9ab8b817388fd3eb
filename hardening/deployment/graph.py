"""An ONNX graph as plain data: nodes whose operators are known, and constants as tensors."""

import inspect
from collections.abc import Mapping, Set
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor

from hardening.deployment.operators import REDUNDANT, SEVERAL, Operator, meaning
from hardening.deployment.signature import graph_input
from hardening.deployment.untrusted import DOMAINS, OLDEST_OPSET
from hardening.errors import ModelError

NARROW: dict[int, type[np.integer]] = {TensorProto.INT4: np.int8, TensorProto.UINT4: np.uint8}
"""Types that torch does not have, and those that hold their values."""


@dataclass(frozen=True, eq=False)
class Node:
    """One operator with the names it reads ("" where an optional input is absent) and writes."""

    operator: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]
    function: Operator
    """What it computes, by the graph's operator set."""

    def compute(self, values: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        """Apply the operator to named `values`."""
        inputs = [values[name] if name else None for name in self.inputs]
        result = self.function(*inputs, **self.attributes)
        return (result,) if isinstance(result, Tensor) else tuple(result)


@dataclass(frozen=True)
class Graph:
    """Nodes in an order in which they can be computed, from `input` and `constants` to `output`.

    `folded` are the nodes whose results are among the constants already; `narrow` names the
    constants that the file stores in 4 bits.
    """

    nodes: tuple[Node, ...]
    folded: tuple[Node, ...]
    constants: Mapping[str, Tensor]
    narrow: frozenset[str]
    input: str
    output: str


def read_graph(model: onnx.ModelProto) -> Graph:
    """The graph of a checked `model`, everything that depends on constants alone computed.

    Raises:
        ModelError: An operator, an attribute or the opset is not one a twin can compute.
    """
    opset = max(entry.version for entry in model.opset_import if entry.domain in DOMAINS)
    if opset < OLDEST_OPSET:
        raise ModelError(f"got ONNX opset {opset}, expected {OLDEST_OPSET} or later")
    constants = {tensor.name: _tensor(tensor) for tensor in model.graph.initializer}
    narrow = {tensor.name for tensor in model.graph.initializer if tensor.data_type in NARROW}
    read = {name for node in model.graph.node for name in node.input}
    read |= {value.name for value in model.graph.output}
    nodes, folded = [], []
    for proto in model.graph.node:
        if proto.op_type == "Constant":
            constants[proto.output[0]] = _constant(proto)
            continue
        node = _read_node(proto, opset, read)
        if all(not source or source in constants for source in node.inputs):
            with torch.no_grad():
                constants.update(zip(node.outputs, node.compute(constants), strict=False))
            folded.append(node)
        else:
            nodes.append(node)
    ends = graph_input(model.graph).name, model.graph.output[0].name
    return Graph(tuple(nodes), tuple(folded), constants, frozenset(narrow), *ends)


def _read_node(proto: onnx.NodeProto, opset: int, read: Set[str]) -> Node:
    function = meaning(proto.op_type, opset)
    if function is None:
        raise ModelError(f"operator {proto.op_type} is not one a twin can compute")
    redundant = REDUNDANT.get(proto.op_type, frozenset())
    attributes = {
        entry.name: _attribute(entry) for entry in proto.attribute if entry.name not in redundant
    }
    outputs = tuple(proto.output)
    if proto.op_type not in SEVERAL:
        # Masks, indices and statistics: named by many exporters, read by nobody.
        if read & {*outputs[1:]} - {""}:
            raise ModelError(f"operator {proto.op_type} with several outputs, expected one")
        outputs = outputs[:1]
    if proto.op_type == "Split" and len(proto.input) == 1:
        attributes.setdefault("num_outputs", len(outputs))
    try:
        inspect.signature(function).bind(*proto.input, **attributes)
    except TypeError as error:
        raise ModelError(
            f"operator {proto.op_type} has inputs or attributes a twin does not know: {error}"
        ) from error
    return Node(proto.op_type, tuple(proto.input), outputs, attributes, function)


def _tensor(tensor: TensorProto) -> Tensor:
    values = numpy_helper.to_array(tensor)
    if tensor.data_type == TensorProto.BFLOAT16:
        return torch.from_numpy(values.astype(np.float32)).bfloat16()
    held = NARROW.get(tensor.data_type)
    return torch.from_numpy(values.copy() if held is None else values.astype(held))


def _attribute(entry: onnx.AttributeProto) -> Any:
    value = helper.get_attribute_value(entry)
    if isinstance(value, TensorProto):
        return _tensor(value)
    return value.decode() if isinstance(value, bytes) else value


def _constant(proto: onnx.NodeProto) -> Tensor:
    entry = proto.attribute[0]
    if entry.name not in {"value", "value_float", "value_floats", "value_int", "value_ints"}:
        raise ModelError(f"operator Constant with {entry.name}, expected numbers")
    value = _attribute(entry)
    return value if isinstance(value, Tensor) else torch.tensor(value)
