"""What each operator on integers is in floats: see `float_form`."""

from collections.abc import Callable, Mapping
from typing import Any

import onnx
import torch
from onnx import TensorProto

from hardening.deployment.float_graph import FloatGraph
from hardening.deployment.graph import Node
from hardening.deployment.integer import Grid
from hardening.deployment.kernels import output_axis
from hardening.deployment.native import WEIGHTED
from hardening.deployment.operators.quantization import along
from hardening.errors import ModelError

KEEPING = frozenset(
    {
        "Concat",
        "Flatten",
        "Gather",
        "GlobalMaxPool",
        "Identity",
        "MaxPool",
        "Reshape",
        "Slice",
        "Split",
        "Squeeze",
        "Transpose",
        "Unsqueeze",
    }
)
"""Operators that make no new number: integers come out on the grid on which they went in."""


def rewrite(form: FloatGraph, graph: onnx.GraphProto) -> None:
    """Add to `form` what every node of `graph` is in floats.

    Raises:
        ModelError: An operator on integers is not known here, or its grids are computed.
    """
    protos = {proto.output[0]: proto for proto in graph.node}
    for node in form.graph.nodes:
        if node.operator in FLOATS:
            FLOATS[node.operator](form, node)
        else:
            _as_it_is(form, node, protos[node.outputs[0]])


def _as_it_is(form: FloatGraph, node: Node, proto: onnx.NodeProto) -> None:
    grids = [form.grids.get(name) for name in node.inputs if name not in form.constants and name]
    found = [grid for grid in grids if grid is not None]
    if found and node.operator == "Cast":
        _in_float(form, node, found[0])
        return
    if found and node.operator != "Shape":
        alike = len(found) == len(grids) and all(_same(found[0], grid) for grid in found)
        if node.operator not in KEEPING or not alike:
            raise ModelError(f"operator {node.operator} on integers has no float form")
        form.grids.update(dict.fromkeys(node.outputs, found[0]))
    form.nodes.append(proto)


def _in_float(form: FloatGraph, node: Node, grid: Grid) -> None:
    if node.attributes.get("to") != TensorProto.FLOAT or grid.zero or float(grid.step) != 1:
        raise ModelError("operator Cast on integers has no float form")
    form.add("Identity", node.inputs, node.outputs[0])


def _same(first: Grid, second: Grid) -> bool:
    return first.zero == second.zero and torch.equal(first.scale, second.scale)


def _quantize(form: FloatGraph, node: Node) -> None:
    form.write(node.inputs[0], node.outputs[0], form.grid(node, 1))


def _dequantize(form: FloatGraph, node: Node) -> None:
    form.add("Identity", [form.operand(node, 0)], node.outputs[0])


def _quantize_dynamically(form: FloatGraph, node: Node) -> None:
    """The range of a batch saturates nothing: steps of one from zero stand for the floats."""
    values, scale, point = node.outputs
    form.constants |= {scale: torch.tensor(1.0), point: torch.tensor(0, dtype=torch.uint8)}
    form.grids[values] = Grid(form.constants[scale], 0.0, 0, 255)
    form.add("Identity", node.inputs, values)


def _sum_of_integers(form: FloatGraph, node: Node) -> None:
    """MatMulInteger and ConvInteger: sums of products of steps, so of floats over their scale."""
    operator = node.operator.removesuffix("Integer")
    inputs = [_steps(form, node, 0, 1), _steps(form, node, 1, output_axis(operator, {}))]
    form.add(operator, inputs, node.outputs[0], **node.attributes)
    form.grids[node.outputs[0]] = Grid(torch.tensor(1.0), 0.0, -(2**31), 2**31 - 1)


def _steps(form: FloatGraph, node: Node, place: int, axis: int) -> str:
    """Differences from the zero point, which is two places behind."""
    name, fresh = node.inputs[place], f"{node.outputs[0]}:float:{place}"
    point = node.inputs[place + 2] if len(node.inputs) > place + 2 else ""
    zero = form.constants[point] if point else torch.tensor(0)
    if name in form.constants:
        stored = form.constants[name]
        return form.store_once(
            fresh,
            ("steps", name, point, axis),
            lambda: stored.double() - along(zero.double(), axis, stored),
        )
    grid = form.grids.get(name)
    if grid is None or zero.numel() != 1 or float(zero.reshape(-1)[0]) != grid.zero:
        raise ModelError(f"tensor {name!r} is read on another grid than it was written on")
    if float(grid.step) == 1:
        return name
    return form.add("Div", [name, form.store(f"{fresh}:scale", grid.scale)], form.fresh(fresh))


def _weighted(form: FloatGraph, node: Node) -> None:
    operator, bias_place, result_place = WEIGHTED[node.operator]
    axis = output_axis(operator, node.attributes)
    inputs = [form.operand(node, 0), form.operand(node, 3, axis)]
    bias = node.inputs[bias_place] if bias_place and len(node.inputs) > bias_place else ""
    if bias:
        scale = form.grid(node, 1).scale.double() * form.grid(node, 4).scale.double()
        alpha = node.attributes.get("alpha", 1.0)
        inputs.append(
            form.store_once(
                f"{node.outputs[0]}:float:bias",
                ("bias", bias, node.inputs[1], node.inputs[4], alpha),
                lambda: form.constants[bias].double() * alpha * scale.reshape(-1),
            )
        )
    _result(form, node, operator, inputs, result_place, node.attributes)


def _elementwise(form: FloatGraph, node: Node) -> None:
    inputs = [form.operand(node, place) for place in (0, 3)]
    _result(form, node, node.operator.removeprefix("QLinear"), inputs, 6, {})


def _single(form: FloatGraph, node: Node) -> None:
    attributes = {key: value for key, value in node.attributes.items() if key != "channels_last"}
    operator = node.operator.removeprefix("QLinear")
    _result(form, node, operator, [form.operand(node, 0)], 3, attributes)


def _concatenation(form: FloatGraph, node: Node) -> None:
    inputs = [form.operand(node, place) for place in range(2, len(node.inputs), 3)]
    _result(form, node, "Concat", inputs, 0, node.attributes)


def _result(
    form: FloatGraph,
    node: Node,
    operator: str,
    inputs: list[str],
    place: int,
    attributes: Mapping[str, Any],
) -> None:
    """Add the operator; its scale and zero point, from `place` on, say where values end."""
    output = node.outputs[0]
    if not any(node.inputs[place : place + 2]):
        form.add(operator, inputs, output, **attributes)
        return
    free = form.add(operator, inputs, form.fresh(f"{output}:float"), **attributes)
    form.write(free, output, form.grid(node, place))


FLOATS: dict[str, Callable[[FloatGraph, Node], None]] = {
    **dict.fromkeys(("ConvInteger", "MatMulInteger"), _sum_of_integers),
    **dict.fromkeys(("QGemm", "QLinearConv", "QLinearMatMul"), _weighted),
    **dict.fromkeys(("QLinearAdd", "QLinearMul"), _elementwise),
    **dict.fromkeys(("QLinearAveragePool", "QLinearGlobalAveragePool"), _single),
    **dict.fromkeys(("QLinearLeakyRelu", "QLinearSigmoid"), _single),
    "DequantizeLinear": _dequantize,
    "DynamicQuantizeLinear": _quantize_dynamically,
    "QLinearConcat": _concatenation,
    "QuantizeLinear": _quantize,
}
