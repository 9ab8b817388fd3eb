"""Activations of the ONNX operator set, in torch.

Positional parameters are an operator's inputs, keyword-only ones its attributes with ONNX defaults.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from hardening.deployment.operators.arithmetic import unary


def leaky_relu(x: Tensor, *, alpha: float = 0.01) -> Tensor:
    """LeakyRelu."""
    return F.leaky_relu(x, alpha)


def parametric_relu(x: Tensor, slope: Tensor) -> Tensor:
    """PRelu."""
    return torch.where(x < 0, x * slope, x)


def elu(x: Tensor, *, alpha: float = 1.0) -> Tensor:
    """Elu."""
    return F.elu(x, alpha)


def selu(x: Tensor, *, alpha: float = 1.6732632, gamma: float = 1.0507010) -> Tensor:
    """Selu."""
    return gamma * F.elu(x, alpha)


def hard_sigmoid(x: Tensor, *, alpha: float = 0.2, beta: float = 0.5) -> Tensor:
    """HardSigmoid."""
    return (x * alpha + beta).clamp(0, 1)


def gelu(x: Tensor, *, approximate: str = "none") -> Tensor:
    """Gelu."""
    return F.gelu(x, approximate=approximate)


def softmax(x: Tensor, *, axis: int = -1) -> Tensor:
    """Softmax."""
    return x.softmax(axis)


def log_softmax(x: Tensor, *, axis: int = -1) -> Tensor:
    """LogSoftmax."""
    return x.log_softmax(axis)


def celu(x: Tensor, *, alpha: float = 1.0) -> Tensor:
    """Celu."""
    return F.celu(x, alpha)


def thresholded_relu(x: Tensor, *, alpha: float = 1.0) -> Tensor:
    """ThresholdedRelu."""
    return torch.where(x > alpha, x, 0.0)


ACTIVATIONS: dict[str, Callable[..., Tensor]] = {
    "Celu": celu,
    "Elu": elu,
    "Gelu": gelu,
    "HardSigmoid": hard_sigmoid,
    "HardSwish": unary(F.hardswish),
    "LeakyRelu": leaky_relu,
    "LogSoftmax": log_softmax,
    "Mish": unary(F.mish),
    "PRelu": parametric_relu,
    "Relu": unary(torch.relu),
    "Selu": selu,
    "Sigmoid": unary(torch.sigmoid),
    "Softmax": softmax,
    "Softplus": unary(F.softplus),
    "Softsign": unary(F.softsign),
    "Tanh": unary(torch.tanh),
    "ThresholdedRelu": thresholded_relu,
}
