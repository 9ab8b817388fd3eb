"""The operators a twin can compute: a name and a function each."""

from collections.abc import Callable
from typing import Any

from hardening.deployment.operators.activation import ACTIVATIONS
from hardening.deployment.operators.arithmetic import ARITHMETIC
from hardening.deployment.operators.convolution import CONVOLUTION
from hardening.deployment.operators.indexing import INDEXING
from hardening.deployment.operators.quantization import QUANTIZATION
from hardening.deployment.operators.reduction import REDUCTION
from hardening.deployment.operators.shape import SHAPE

Operator = Callable[..., Any]
"""Inputs are positional, attributes keyword-only; gives a tensor, or a tuple of them (Split)."""

OPERATORS: dict[str, Operator] = {
    **ACTIVATIONS,
    **ARITHMETIC,
    **CONVOLUTION,
    **INDEXING,
    **QUANTIZATION,
    **REDUCTION,
    **SHAPE,
}

REDUNDANT: dict[str, frozenset[str]] = {
    "BatchNormalization": frozenset({"momentum", "training_mode"}),
    "Cast": frozenset({"saturate"}),
    "Conv": frozenset({"kernel_shape"}),
    "Dropout": frozenset({"seed"}),
    "LayerNormalization": frozenset({"stash_type"}),
    "MaxPool": frozenset({"storage_order"}),
    "QuantizeLinear": frozenset({"saturate"}),
}
"""Attributes that change nothing the operator computes at inference."""
