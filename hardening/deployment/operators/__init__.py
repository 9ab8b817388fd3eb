"""The operators a twin can compute: a name and a function each."""

from collections.abc import Callable
from typing import Any

from hardening.deployment.operators.activation import ACTIVATIONS
from hardening.deployment.operators.arithmetic import ARITHMETIC
from hardening.deployment.operators.convolution import CONVOLUTION
from hardening.deployment.operators.indexing import INDEXING
from hardening.deployment.operators.normalization import NORMALIZATION
from hardening.deployment.operators.older import OLDER
from hardening.deployment.operators.pooling import POOLING
from hardening.deployment.operators.quantization import QUANTIZATION
from hardening.deployment.operators.reduction import REDUCTION
from hardening.deployment.operators.resizing import RESIZING
from hardening.deployment.operators.shape import SHAPE

Operator = Callable[..., Any]
"""Inputs are positional, attributes keyword-only; gives a tensor, or a tuple for `SEVERAL`."""

OPERATORS: dict[str, Operator] = {
    **ACTIVATIONS,
    **ARITHMETIC,
    **CONVOLUTION,
    **INDEXING,
    **NORMALIZATION,
    **POOLING,
    **QUANTIZATION,
    **REDUCTION,
    **RESIZING,
    **SHAPE,
}

SEVERAL = frozenset({"DynamicQuantizeLinear", "Split"})
"""Operators with more than one output that counts."""

REDUNDANT: dict[str, frozenset[str]] = {
    "BatchNormalization": frozenset({"momentum", "training_mode"}),
    "Cast": frozenset({"saturate"}),
    "Conv": frozenset({"kernel_shape"}),
    "ConvInteger": frozenset({"kernel_shape"}),
    "ConvTranspose": frozenset({"kernel_shape"}),
    "Dropout": frozenset({"seed"}),
    "GroupNormalization": frozenset({"stash_type"}),
    "LayerNormalization": frozenset({"stash_type"}),
    "MaxPool": frozenset({"storage_order"}),
    "QLinearConv": frozenset({"kernel_shape"}),
    "QuantizeLinear": frozenset({"saturate"}),
    "Resize": frozenset({"extrapolation_value"}),
}
"""Attributes that change nothing the operator computes at inference."""


def meaning(name: str, opset: int) -> Operator | None:
    """What the operator `name` computes in a graph of operator set `opset`, if that is known."""
    since, earlier = OLDER.get(name, (0, None))
    return earlier if opset < since else OPERATORS.get(name)
