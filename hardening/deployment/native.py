"""Integer kernels that a file names itself: QLinearConv and its like (the QOperator format).

https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md. Scales and zero points
must be constants; an operator not listed here is refused by its name.
"""

from collections.abc import Callable

from torch import nn

from hardening.deployment.graph import Node
from hardening.deployment.integer import Grid
from hardening.deployment.kernels import Kernel, average, output_axis, weighted_sum
from hardening.deployment.pointwise import (
    Addition,
    Concatenation,
    MatrixProduct,
    Multiplication,
)
from hardening.deployment.table import lookup
from hardening.deployment.wiring import Wiring
from hardening.errors import ModelError

WEIGHTED = {
    "QGemm": ("Gemm", 6, 7),
    "QLinearConv": ("Conv", 8, 6),
    "QLinearMatMul": ("MatMul", None, 6),
}
"""What they compute, and the places of the bias and of the result's scale among the inputs."""


def find_native(node: Node, wiring: Wiring) -> Kernel | None:
    """The kernel that `node` is, if it is one.

    Raises:
        ModelError: It is one, with inputs of which no exact kernel can be made.
    """
    build = NATIVE.get(node.operator)
    if build is None:
        return None
    if node.attributes.get("channels_last", 0):
        raise ModelError(f"operator {node.operator} with channels last, expected NCHW")
    compute, inputs = build(node, wiring)
    return Kernel(compute, inputs, node.outputs[0], (node,))


Built = tuple[nn.Module, tuple[str, ...]]


def _weighted(node: Node, wiring: Wiring) -> Built:
    operator, bias_place, result_place = WEIGHTED[node.operator]
    source, weight = _grid(node, wiring, 1), _grid(node, wiring, 4)
    result = _grid(node, wiring, result_place) if any(node.inputs[result_place:]) else None
    stored = wiring.constants.get(node.inputs[3])
    if stored is None and operator == "MatMul" and result is not None:
        return MatrixProduct(source, weight, result), (node.inputs[0], node.inputs[3])
    bias_name = node.inputs[bias_place] if bias_place and len(node.inputs) > bias_place else ""
    bias = wiring.constants.get(bias_name)
    if stored is None or (bias_name and bias is None):
        raise ModelError(f"operator {node.operator} with computed weights, expected stored ones")
    if weight.scale.numel() not in {1, stored.shape[output_axis(operator, node.attributes)]}:
        raise ModelError(
            f"operator {node.operator} has {weight.scale.numel()} scales for weights of shape "
            f"{tuple(stored.shape)}, expected one for each output channel"
        )
    compute = weighted_sum(operator, node.attributes, source, (stored, weight), bias, result)
    return compute, node.inputs[:1]


def _elementwise(node: Node, wiring: Wiring) -> Built:
    kernel = Addition if node.operator == "QLinearAdd" else Multiplication
    grids = [_grid(node, wiring, place) for place in (1, 4, 6)]
    return kernel(*grids), (node.inputs[0], node.inputs[3])


def _average(node: Node, wiring: Wiring) -> Built:
    grids = _grid(node, wiring, 1), _grid(node, wiring, 3)
    kept = {key: value for key, value in node.attributes.items() if key != "channels_last"}
    window = None if node.operator == "QLinearGlobalAveragePool" else kept
    return average(window, *grids), node.inputs[:1]


def _lookup(node: Node, wiring: Wiring) -> Built:
    grids = _grid(node, wiring, 1), _grid(node, wiring, 3)
    name = node.operator.removeprefix("QLinear")
    return lookup(name, node.attributes, *grids), node.inputs[:1]


def _concatenation(node: Node, wiring: Wiring) -> Built:
    sources = [_grid(node, wiring, place) for place in range(3, len(node.inputs), 3)]
    compute = Concatenation(node.attributes["axis"], sources, _grid(node, wiring, 0))
    return compute, node.inputs[2::3]


def _grid(node: Node, wiring: Wiring, place: int) -> Grid:
    """The grid whose scale and zero point are the inputs of `node` from `place` on."""
    scale, point = (*node.inputs[place : place + 2], "", "")[:2]
    grid = wiring.grid(scale, point) if scale and point else None
    if grid is None:
        raise ModelError(
            f"operator {node.operator} has a scale {scale!r} and a zero point {point!r}, expected "
            "constants with a single zero point"
        )
    return grid


NATIVE: dict[str, Callable[[Node, Wiring], Built]] = {
    "QGemm": _weighted,
    "QLinearAdd": _elementwise,
    "QLinearAveragePool": _average,
    "QLinearConcat": _concatenation,
    "QLinearConv": _weighted,
    "QLinearGlobalAveragePool": _average,
    "QLinearLeakyRelu": _lookup,
    "QLinearMatMul": _weighted,
    "QLinearMul": _elementwise,
    "QLinearSigmoid": _lookup,
}
