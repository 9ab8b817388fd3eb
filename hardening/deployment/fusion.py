"""Which nodes of an int8 graph ONNX Runtime runs as one integer kernel.

With full optimization it replaces DequantizeLinear -> operator -> QuantizeLinear by integer
arithmetic (its "QDQ selectors"). A twin must make the same choices to compute the same integers;
everything not matched here is computed in float32 between the two, as ONNX Runtime does.
"""

from collections.abc import Callable

from torch import nn

from hardening.deployment.blocks import BLOCK, BlockProduct
from hardening.deployment.graph import Node
from hardening.deployment.integer import Grid
from hardening.deployment.kernels import Kernel, average, output_axis, weighted_sum
from hardening.deployment.operators import OPERATORS
from hardening.deployment.pointwise import Addition, MatrixProduct, Multiplication
from hardening.deployment.table import Softmax, lookup
from hardening.deployment.unsigned import MOVES
from hardening.deployment.wiring import Ending, Quantized, Wiring


def find_kernel(node: Node, wiring: Wiring) -> Kernel | None:
    """The integer kernel that ONNX Runtime would run for `node` and its neighbours, if any."""
    match = MATCHES.get(node.operator)
    return match(node, wiring) if match else None


def _average(node: Node, wiring: Wiring) -> Kernel | None:
    source, ending = wiring.activation(node.inputs[0]), wiring.ending(node)
    if source is None or ending is None or ending.relu or not _alike(source, ending=ending):
        return None
    window = node.attributes if node.operator == "AveragePool" else None
    compute = average(window, source.grid, ending.grid)
    return Kernel(compute, (source.name,), ending.output, (node, *ending.absorbed))


def _lookup(node: Node, wiring: Wiring) -> Kernel | None:
    source, ending = wiring.activation(node.inputs[0]), wiring.ending(node)
    if source is None or ending is None or ending.relu or not _alike(source, ending=ending):
        return None
    compute: nn.Module
    if node.operator == "Softmax":
        if node.attributes.get("axis", -1) != -1 or node.function is not OPERATORS["Softmax"]:
            return None
        compute = Softmax(source.grid, ending.grid)
    else:
        compute = lookup(node.operator, node.attributes, source.grid, ending.grid)
    return Kernel(compute, (source.name,), ending.output, (node, *ending.absorbed))


def _elementwise(node: Node, wiring: Wiring) -> Kernel | None:
    ending = wiring.ending(node)
    return None if ending is None or ending.relu else _two_activations(node, wiring, ending)


def _matrix_product(node: Node, wiring: Wiring) -> Kernel | None:
    kernel, ending = _inner_product(node, wiring), wiring.ending(node)
    if kernel is not None or ending is None:
        return kernel
    return _two_activations(node, wiring, ending)


def _two_activations(node: Node, wiring: Wiring, ending: Ending) -> Kernel | None:
    first, second = (wiring.activation(name) for name in node.inputs)
    if first is None or second is None or not _alike(first, second, ending=ending):
        return None
    grids = (first.grid, second.grid, ending.grid)
    compute = TWO_ACTIVATIONS[node.operator](*grids)
    return Kernel(compute, (first.name, second.name), ending.output, (node, *ending.absorbed))


def _inner_product(node: Node, wiring: Wiring) -> Kernel | None:
    return _weighted(node, wiring) or _narrow(node, wiring)


def _narrow(node: Node, wiring: Wiring) -> Kernel | None:
    maker, settings = wiring.makers.get(node.inputs[1]), {**node.attributes}
    if maker is None or maker.operator != "DequantizeLinear" or node.inputs[0] in wiring.constants:
        return None
    plain = all(settings.pop(key, 1) == 1 for key in ("alpha", "beta"))
    if not plain or any(settings.values()) or maker.inputs[0] not in wiring.narrow:
        return None
    compute = BlockProduct(maker.attributes.get("block_size", 0) or BLOCK)
    return Kernel(compute, node.inputs, node.outputs[0], (node,))


def _weighted(node: Node, wiring: Wiring) -> Kernel | None:
    source, weight = wiring.activation(node.inputs[0]), wiring.quantized(node.inputs[1])
    ending = wiring.ending(node)
    if source is None or weight is None or weight.name not in wiring.constants:
        return None
    signed = MOVES and source.grid.low and node.operator != "Gemm"
    if signed or (ending is None and node.operator == "Conv"):
        return None
    if ending is not None and not _alike(source, ending=ending):
        return None
    stored = wiring.constants[weight.name]
    axis = output_axis(node.operator, node.attributes)
    if weight.grid.scale.numel() > 1 and weight.axis % stored.dim() != axis:
        return None
    bias = wiring.quantized(node.inputs[2]) if any(node.inputs[2:]) else None
    if any(node.inputs[2:]) and (bias is None or bias.name not in wiring.constants):
        return None
    compute = weighted_sum(
        node.operator,
        node.attributes,
        source.grid,
        (stored, weight.grid),
        None if bias is None else wiring.constants[bias.name],
        ending.grid if ending else None,
    )
    absorbed, output = (ending.absorbed, ending.output) if ending else ((), node.outputs[0])
    return Kernel(compute, (source.name,), output, (node, *absorbed))


def _alike(*sources: Quantized, ending: Ending) -> bool:
    """Integer kernels read and write one type, and drop a Relu only if saturation implies it."""
    implied = not ending.relu or ending.grid.zero == ending.grid.low
    return implied and all(source.grid.low == ending.grid.low for source in sources)


TWO_ACTIVATIONS: dict[str, Callable[[Grid, Grid, Grid], nn.Module]] = {
    "Add": Addition,
    "MatMul": MatrixProduct,
    "Mul": Multiplication,
}

MATCHES: dict[str, Callable[[Node, Wiring], Kernel | None]] = {
    "Add": _elementwise,
    "AveragePool": _average,
    "Conv": _weighted,
    "Gemm": _inner_product,
    "GlobalAveragePool": _average,
    "LeakyRelu": _lookup,
    "MatMul": _matrix_product,
    "Mul": _elementwise,
    "Sigmoid": _lookup,
    "Softmax": _lookup,
}
