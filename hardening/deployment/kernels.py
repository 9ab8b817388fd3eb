"""Integer kernels of ONNX Runtime, put together from grids, stored weights and attributes."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from hardening.deployment.bytes import geometry
from hardening.deployment.graph import Node
from hardening.deployment.integer import Grid, WeightedSum
from hardening.deployment.operators.arithmetic import general_matrix_product
from hardening.deployment.operators.convolution import convolution
from hardening.deployment.operators.pooling import average_pool
from hardening.deployment.pointwise import Average, GlobalAverage


class Kernel(NamedTuple):
    """One integer computation that stands for the `absorbed` nodes."""

    compute: nn.Module
    inputs: tuple[str, ...]
    output: str
    absorbed: tuple[Node, ...]


def weighted_sum(
    operator: str,
    attributes: Mapping[str, Any],
    source: Grid,
    stored: tuple[Tensor, Grid],
    bias: Tensor | None,
    result: Grid | None,
) -> WeightedSum:
    """Conv, Gemm or MatMul of integers and `stored` weights, onto `result` or floats."""
    weight, grid = stored
    factor = _factor(attributes.get("alpha", 1.0), source, grid, result)
    convolves = operator == "Conv"
    return WeightedSum(
        _product(operator, attributes),
        source,
        weight.double() - grid.zero,
        None if bias is None else bias.double(),
        factor.reshape(-1, *[1] * (weight.dim() - 2)) if convolves else factor,
        result,
        separable=convolves and attributes.get("group", 1) == 1,
        shape=geometry(attributes) if convolves and weight.dim() == 4 else None,
    )


def average(attributes: Mapping[str, Any] | None, source: Grid, result: Grid) -> nn.Module:
    """AveragePool of integers with its attributes, or GlobalAveragePool without."""
    if attributes is None:
        return GlobalAverage(source, result)
    padded = any(attributes.get("pads", ())) or attributes.get("auto_pad", "VALID") != "VALID"
    window = () if padded else tuple(attributes["kernel_shape"])
    return Average(partial(average_pool, **attributes), window, source, result)


def output_axis(operator: str, attributes: Mapping[str, Any]) -> int:
    """The axis of the weights that is the result's channel."""
    plain_gemm = operator == "Gemm" and not attributes.get("transB", 0)
    return 1 if operator == "MatMul" or plain_gemm else 0


def _product(operator: str, attributes: Mapping[str, Any]) -> Callable[..., Tensor]:
    """The operator on integers: scaling is not its business."""
    if operator == "MatMul":
        return _matmul
    kept = {key: value for key, value in attributes.items() if key not in {"alpha", "beta"}}
    return partial(convolution if operator == "Conv" else general_matrix_product, **kept)


def _matmul(x: Tensor, weight: Tensor, _bias: None) -> Tensor:
    return x @ weight


def _factor(alpha: float, source: Grid, weight: Grid, result: Grid | None) -> Tensor:
    """float32 scale per output channel, (O,) or (1,), multiplied in ONNX Runtime's order."""
    scale = source.scale.reshape(())
    factor = (scale if alpha == 1 else torch.tensor(alpha) * scale) * weight.scale.reshape(-1)
    return factor if result is None else factor / result.scale.reshape(())
