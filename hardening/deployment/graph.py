"""An ONNX graph as plain data: nodes whose operators are known, and constants as tensors."""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor

from hardening.deployment.operators import OPERATORS, REDUNDANT
from hardening.deployment.signature import graph_input
from hardening.deployment.untrusted import DOMAINS
from hardening.errors import ModelError

OLDEST_OPSET = 13
"""Before it Softmax, Clip, Squeeze and others meant something else."""


@dataclass(frozen=True, eq=False)
class Node:
    """One operator with the names it reads ("" where an optional input is absent) and writes."""

    operator: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]

    def compute(self, values: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        """Apply the operator to named `values`."""
        inputs = [values[name] if name else None for name in self.inputs]
        result = OPERATORS[self.operator](*inputs, **self.attributes)
        return (result,) if isinstance(result, Tensor) else tuple(result)


@dataclass(frozen=True)
class Graph:
    """Nodes in an order in which they can be computed, from `input` and `constants` to `output`.

    `folded` are the nodes whose results are among the constants already.
    """

    nodes: tuple[Node, ...]
    folded: tuple[Node, ...]
    constants: Mapping[str, Tensor]
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
    nodes, folded = [], []
    for proto in model.graph.node:
        if proto.op_type == "Constant":
            constants[proto.output[0]] = _constant(proto)
            continue
        node = _read_node(proto)
        if all(not source or source in constants for source in node.inputs):
            with torch.no_grad():
                constants.update(zip(node.outputs, node.compute(constants), strict=False))
            folded.append(node)
        else:
            nodes.append(node)
    ends = graph_input(model.graph).name, model.graph.output[0].name
    return Graph(tuple(nodes), tuple(folded), constants, *ends)


def _read_node(proto: onnx.NodeProto) -> Node:
    if proto.op_type not in OPERATORS:
        raise ModelError(f"operator {proto.op_type} is not one a twin can compute")
    redundant = REDUNDANT.get(proto.op_type, frozenset())
    attributes = {
        entry.name: _attribute(entry) for entry in proto.attribute if entry.name not in redundant
    }
    outputs = tuple(proto.output)
    if proto.op_type == "Split":
        if len(proto.input) == 1:
            attributes.setdefault("num_outputs", len(outputs))
    elif any(outputs[1:]):
        raise ModelError(f"operator {proto.op_type} with several outputs, expected one")
    try:
        inspect.signature(OPERATORS[proto.op_type]).bind(*proto.input, **attributes)
    except TypeError as error:
        raise ModelError(
            f"operator {proto.op_type} has inputs or attributes a twin does not know: {error}"
        ) from error
    return Node(proto.op_type, tuple(proto.input), outputs, attributes)


def _tensor(tensor: TensorProto) -> Tensor:
    values = numpy_helper.to_array(tensor)
    # Neither numpy nor torch computes with 4 bits: they become the same integers in 8.
    narrow = tensor.data_type in {TensorProto.INT4, TensorProto.UINT4}
    return torch.from_numpy(values.astype("int8") if narrow else values.copy())


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
