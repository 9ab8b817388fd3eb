"""Which nodes of an int8 graph ONNX Runtime runs as one integer kernel.

With full optimization it replaces DequantizeLinear -> operator -> QuantizeLinear by integer
arithmetic (its "QDQ selectors"). A twin must make the same choices to compute the same integers;
everything not matched here is computed in float32 between the two, as ONNX Runtime does.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from hardening.deployment.graph import Node
from hardening.deployment.integer import Grid, WeightedSum
from hardening.deployment.pointwise import (
    Addition,
    Average,
    GlobalAverage,
    MatrixProduct,
    Multiplication,
)
from hardening.deployment.wiring import Ending, Quantized, Wiring


class Kernel(NamedTuple):
    """One integer computation that stands for the `absorbed` nodes."""

    compute: nn.Module
    inputs: tuple[str, ...]
    output: str
    absorbed: tuple[Node, ...]


def find_kernel(node: Node, wiring: Wiring) -> Kernel | None:
    """The integer kernel that ONNX Runtime would run for `node` and its neighbours, if any."""
    match = MATCHES.get(node.operator)
    return match(node, wiring) if match else None


def _average(node: Node, wiring: Wiring) -> Kernel | None:
    source, ending = wiring.activation(node.inputs[0]), wiring.ending(node)
    if source is None or ending is None or ending.relu or not _alike(source, ending=ending):
        return None
    compute: nn.Module
    if node.operator == "AveragePool":
        pool = partial(node.function, **node.attributes)
        window = () if any(node.attributes.get("pads", ())) else node.attributes["kernel_shape"]
        compute = Average(pool, tuple(window), source.grid, ending.grid)
    else:
        compute = GlobalAverage(source.grid, ending.grid)
    return Kernel(compute, (source.name,), ending.output, (node, *ending.absorbed))


def _elementwise(node: Node, wiring: Wiring) -> Kernel | None:
    ending = wiring.ending(node)
    return None if ending is None or ending.relu else _two_activations(node, wiring, ending)


def _matrix_product(node: Node, wiring: Wiring) -> Kernel | None:
    kernel, ending = _weighted(node, wiring), wiring.ending(node)
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


def _weighted(node: Node, wiring: Wiring) -> Kernel | None:
    source, weight = wiring.activation(node.inputs[0]), wiring.quantized(node.inputs[1])
    ending = wiring.ending(node)
    if source is None or weight is None or weight.name not in wiring.constants:
        return None
    if ending is None and node.operator == "Conv":
        return None
    if ending is not None and not _alike(source, ending=ending):
        return None
    stored = wiring.constants[weight.name].double()
    if weight.grid.scale.numel() > 1 and weight.axis % stored.dim() != _output_axis(node):
        return None
    bias = wiring.quantized(node.inputs[2]) if any(node.inputs[2:]) else None
    if any(node.inputs[2:]) and (bias is None or bias.name not in wiring.constants):
        return None
    grid = ending.grid if ending else None
    factor = _factor(node, source.grid, weight.grid, grid)
    compute = WeightedSum(
        _product(node),
        source.grid,
        stored - weight.grid.zero,
        None if bias is None else wiring.constants[bias.name].double(),
        factor.reshape(-1, *[1] * (stored.dim() - 2)) if node.operator == "Conv" else factor,
        grid,
        separable=node.operator == "Conv" and node.attributes.get("group", 1) == 1,
    )
    absorbed, output = (ending.absorbed, ending.output) if ending else ((), node.outputs[0])
    return Kernel(compute, (source.name,), output, (node, *absorbed))


def _product(node: Node) -> Callable[..., Tensor]:
    """The operator on integers: scaling is not its business."""
    if node.operator == "MatMul":
        return _matmul
    attributes = {key: v for key, v in node.attributes.items() if key not in {"alpha", "beta"}}
    return partial(node.function, **attributes)


def _matmul(x: Tensor, weight: Tensor, _bias: None) -> Tensor:
    return x @ weight


def _factor(node: Node, source: Grid, weight: Grid, result: Grid | None) -> Tensor:
    """float32 scale per output channel, (O,) or (1,), multiplied in ONNX Runtime's order."""
    scale = source.scale.reshape(())
    alpha = node.attributes.get("alpha", 1.0)
    factor = (scale if alpha == 1 else torch.tensor(alpha) * scale) * weight.scale.reshape(-1)
    return factor if result is None else factor / result.scale.reshape(())


def _output_axis(node: Node) -> int:
    plain_gemm = node.operator == "Gemm" and not node.attributes.get("transB", 0)
    return 1 if node.operator == "MatMul" or plain_gemm else 0


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
    "Gemm": _weighted,
    "GlobalAveragePool": _average,
    "MatMul": _matrix_product,
    "Mul": _elementwise,
}
