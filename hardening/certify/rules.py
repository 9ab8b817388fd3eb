"""What each operator makes of intervals: bounds that hold for float32 arithmetic, too.

Shapes: any; a box is a pair of float64 tensors. The session computes in float32, in an order of its
own: a sum of n products is off by at most gamma(n) times the sum of their absolute values,
whatever the order (Higham, Accuracy and Stability of Numerical Algorithms, 2002, section 3.1).
Each rule widens its box by that much; float64's own roundings are lost in `SPARE`.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

from hardening.deployment.graph import Node
from hardening.errors import ModelError

SPARE = 16
"""Roundings more than a plain sum has: fused constants (a folded batch norm, say), ours."""

FUSED = 1024
"""Terms assumed of an addition: fused into a convolution it is rounded along with its sums."""

FUNCTION_ERROR = 1e-6
"""Error, relative to 1 + the value's size, granted to approximations of tanh and the like."""

SMALLEST = 1e-30
"""Absolute widening: what underflows is lost altogether, not relatively."""

LARGEST = torch.finfo(torch.float32).max


class Box(NamedTuple):
    """All tensors between `lower` and `upper`, element by element."""

    lower: Tensor
    upper: Tensor

    @property
    def centre(self) -> Tensor:
        """Half-way."""
        return (self.lower + self.upper) / 2

    @property
    def radius(self) -> Tensor:
        """Half of the width."""
        return (self.upper - self.lower) / 2

    @property
    def size(self) -> Tensor:
        """The largest absolute values."""
        return torch.maximum(self.lower.abs(), self.upper.abs())


Value: TypeAlias = Box | Tensor | None
Rule = Callable[[Node, Sequence[Value]], Box]


def gamma(terms: int) -> float:
    """Largest relative error of a float32 sum of `terms` products, in any order."""
    roundings = (terms + SPARE) * 2.0**-24
    return roundings / (1 - roundings)


def bound(node: Node, values: Sequence[Value]) -> Box:
    """The box that holds `node`'s result for all points of the boxes among its inputs `values`.

    Raises:
        ModelError: There is no rule for the operator, or none for such inputs.
    """
    if node.operator not in RULES:
        raise ModelError(f"operator {node.operator} has no interval rule")
    box = RULES[node.operator](node, values)
    # What float64 still holds may be an infinity in the session: nothing is known of it.
    lost = ~(box.size <= LARGEST)
    return Box(
        box.lower.masked_fill(lost, float("-inf")), box.upper.masked_fill(lost, float("inf"))
    )


def linear_parts(node: Node, values: Sequence[Value]) -> tuple[Tensor, Tensor | None]:
    """Weight and bias of a Conv, Gemm (O, n) or MatMul; alpha and beta multiplied in."""
    weight, bias = values[1], values[2] if len(values) > 2 else None
    if not isinstance(weight, Tensor) or isinstance(bias, Box) or node.attributes.get("transA"):
        raise _no_rule(node, "a computed weight or a transposed input")
    if node.operator == "Gemm":
        weight = weight if node.attributes.get("transB") else weight.t()
        bias = None if bias is None else bias * node.attributes.get("beta", 1.0)
        return weight * node.attributes.get("alpha", 1.0), bias
    return weight, bias


def _linear(node: Node, values: Sequence[Value]) -> Box:
    """Centre and radius: W c + b and |W| r, as in https://arxiv.org/abs/1810.12715, section 3."""
    x = _only_box(node, values)
    weight, bias = linear_parts(node, values)
    if node.operator == "MatMul" and weight.dim() != 2:
        raise _no_rule(node, "a weight that is no matrix")
    terms = weight.shape[0] if node.operator == "MatMul" else weight.shape[1:].numel()
    attributes = {"transB": 1} if node.operator == "Gemm" else node.attributes
    error = gamma(terms)
    radius = x.radius + error * x.size
    biases = ((bias,), (error * bias.abs(),)) if bias is not None else ((), ())
    operator = node.function
    centre = operator(x.centre, weight, *biases[0], **attributes)
    return _around(centre, operator(radius, weight.abs(), *biases[1], **attributes))


def _batch_normalization(node: Node, values: Sequence[Value]) -> Box:
    x = _only_box(node, values)
    scale, bias, mean, variance = (value for value in values[1:] if isinstance(value, Tensor))
    operator = node.function
    centre = operator(x.centre, scale, bias, mean, variance, **node.attributes)
    # The mean is what is subtracted, so minus its absolute value is added to the radius.
    error = gamma(1)
    subtracted, added = -error * mean.abs(), error * bias.abs()
    radius = x.radius + error * x.size
    statistics = (scale.abs(), added, subtracted, variance)
    return _around(centre, operator(radius, *statistics, **node.attributes))


def _sum(node: Node, values: Sequence[Value]) -> Box:
    boxes = [_boxed(value) for value in values]
    if node.operator == "Sub":
        boxes[1] = Box(-boxes[1].upper, -boxes[1].lower)
    total = boxes[0]
    for box in boxes[1:]:
        error = gamma(FUSED) * (total.size + box.size)
        total = widened(Box(total.lower + box.lower, total.upper + box.upper), error)
    return total


def _scaled(node: Node, values: Sequence[Value]) -> Box:
    x = _only_box(node, values)
    if node.operator == "Neg":
        return Box(-x.upper, -x.lower)
    if node.operator == "Div" and not isinstance(values[0], Box):
        raise _no_rule(node, "a computed divisor")
    ends = [node.function(*_at(values, end)) for end in (0, 1)]
    return widened(_ordered(*ends), gamma(1) * torch.maximum(ends[0].abs(), ends[1].abs()))


def _monotone(node: Node, values: Sequence[Value]) -> Box:
    """Never falls in any input: the ends are taken at the ends."""
    _check_rising(node, values)
    lower, upper = (node.function(*_at(values, end), **node.attributes) for end in (0, 1))
    return Box(lower, upper)


def _approximated(node: Node, values: Sequence[Value]) -> Box:
    box = _monotone(node, values)
    return widened(box, FUNCTION_ERROR * (1 + box.size))


def _averaged(node: Node, values: Sequence[Value]) -> Box:
    x = _only_box(node, values)
    others = [value for value in values[1:] if isinstance(value, Tensor)]
    size = node.function(x.size, *others, **node.attributes)
    return widened(_monotone(node, values), gamma(x.lower[0].numel()) * size)


def _check_rising(node: Node, values: Sequence[Value]) -> None:
    if node.attributes.get("alpha", 1.0) < 0:
        raise _no_rule(node, "a negative slope")
    if node.operator != "Concat":
        _only_box(node, values)
        if not isinstance(values[0], Box):
            raise _no_rule(node, "computed settings")


def _only_box(node: Node, values: Sequence[Value]) -> Box:
    boxes = [value for value in values if isinstance(value, Box)]
    if len(boxes) != 1:
        raise _no_rule(node, "two computed inputs")
    return boxes[0]


def _no_rule(node: Node, what: str) -> ModelError:
    return ModelError(f"operator {node.operator} with {what} has no interval rule")


def _boxed(value: Value) -> Box:
    assert value is not None
    return value if isinstance(value, Box) else Box(value, value)


def _at(values: Sequence[Value], end: int) -> list[Tensor | None]:
    return [value[end] if isinstance(value, Box) else value for value in values]


def _around(centre: Tensor, radius: Tensor) -> Box:
    return widened(Box(centre, centre), radius)


def _ordered(first: Tensor, second: Tensor) -> Box:
    return Box(torch.minimum(first, second), torch.maximum(first, second))


def widened(box: Box, error: Tensor) -> Box:
    """`box` with room for an error of this size."""
    return Box(box.lower - error - SMALLEST, box.upper + error + SMALLEST)


RULES: dict[str, Rule] = {
    **dict.fromkeys(("Conv", "Gemm", "MatMul"), _linear),
    **dict.fromkeys(("Add", "Sub", "Sum"), _sum),
    **dict.fromkeys(("Mul", "Div", "Neg"), _scaled),
    **dict.fromkeys(("AveragePool", "GlobalAveragePool", "ReduceMean", "ReduceSum"), _averaged),
    **dict.fromkeys(("Sigmoid", "Tanh", "LeakyRelu"), _approximated),
    **dict.fromkeys(("Relu", "Clip", "MaxPool", "GlobalMaxPool"), _monotone),
    **dict.fromkeys(("ReduceMax", "ReduceMin", "Identity", "Dropout", "Flatten"), _monotone),
    **dict.fromkeys(("Reshape", "Squeeze", "Unsqueeze", "Transpose", "Expand"), _monotone),
    **dict.fromkeys(("Concat", "Slice", "Gather", "Pad"), _monotone),
    "BatchNormalization": _batch_normalization,
}
