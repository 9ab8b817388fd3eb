"""Element-wise arithmetic, comparisons and matrix products of the ONNX operator set, in torch.

Positional parameters are an operator's inputs, keyword-only ones its attributes with ONNX defaults.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from hardening.deployment.operators.straight_through import pass_through


def unary(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """An operator of one input and no attribute."""

    def operator(x: Tensor) -> Tensor:
        return function(x)

    return operator


def binary(function: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    """An operator of two inputs that broadcast and no attribute."""

    def operator(x: Tensor, y: Tensor) -> Tensor:
        return function(x, y)

    return operator


def folded(function: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., Tensor]:
    """An operator of any number of inputs, taken two at a time."""

    def operator(x: Tensor, *others: Tensor) -> Tensor:
        for other in others:
            x = function(x, other)
        return x

    return operator


def staircase(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """A rounding; the gradient passes as if it were the identity."""

    def operator(x: Tensor) -> Tensor:
        return pass_through(x, function(x))

    return operator


def divide(x: Tensor, y: Tensor) -> Tensor:
    """Div; integers are divided towards zero."""
    return x / y if x.is_floating_point() else torch.div(x, y, rounding_mode="trunc")


def clip(
    x: Tensor,
    lower: Tensor | None = None,
    upper: Tensor | None = None,
) -> Tensor:
    """Clip; a missing bound does not bind."""
    if lower is not None:
        x = x.clamp(min=lower.item())
    return x if upper is None else x.clamp(max=upper.item())


def general_matrix_product(
    x: Tensor,
    y: Tensor,
    bias: Tensor | None = None,
    *,
    alpha: float = 1.0,
    beta: float = 1.0,
    transA: int = 0,
    transB: int = 0,
) -> Tensor:
    """Gemm: alpha * x' y' + beta * bias."""
    product = (x.t() if transA else x) @ (y.t() if transB else y)
    if alpha != 1:
        product = product * alpha
    if bias is None:
        return product
    return product + (bias if beta == 1 else bias * beta)


def mean(x: Tensor, *others: Tensor) -> Tensor:
    """Mean of several tensors."""
    return sum(others, x) / (1 + len(others))


def einsum(*parts: Tensor, equation: str) -> Tensor:
    """Einsum."""
    result: Tensor = torch.einsum(equation, *parts)
    return result


ARITHMETIC: dict[str, Callable[..., Tensor]] = {
    "Abs": unary(torch.abs),
    "Add": binary(torch.add),
    "And": binary(torch.logical_and),
    "Ceil": staircase(torch.ceil),
    "Clip": clip,
    "Cos": unary(torch.cos),
    "Div": divide,
    "Einsum": einsum,
    "Equal": binary(torch.eq),
    "Erf": unary(torch.erf),
    "Exp": unary(torch.exp),
    "Floor": staircase(torch.floor),
    "Gemm": general_matrix_product,
    "Greater": binary(torch.gt),
    "GreaterOrEqual": binary(torch.ge),
    "Less": binary(torch.lt),
    "LessOrEqual": binary(torch.le),
    "Log": unary(torch.log),
    "MatMul": binary(torch.matmul),
    "Max": folded(torch.maximum),
    "Mean": mean,
    "Min": folded(torch.minimum),
    "Mul": binary(torch.mul),
    "Neg": unary(torch.neg),
    "Not": unary(torch.logical_not),
    "Or": binary(torch.logical_or),
    "Pow": binary(torch.pow),
    "Reciprocal": unary(torch.reciprocal),
    "Round": staircase(torch.round),
    "Sign": staircase(torch.sign),
    "Sin": unary(torch.sin),
    "Sqrt": unary(torch.sqrt),
    "Sub": binary(torch.sub),
    "Sum": folded(torch.add),
    "Xor": binary(torch.logical_xor),
}
