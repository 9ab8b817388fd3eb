"""Rounding that lets gradients pass (Athalye et al. 2018, BPDA, https://arxiv.org/abs/1802.00420)."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor

_TRUE: ContextVar[bool] = ContextVar("true gradients", default=False)


@contextmanager
def true_gradients() -> Iterator[None]:
    """Inside, in this thread, rounding has its own derivative: zero almost everywhere.

    So sees a quantized file who differentiates it without a thought, and finds it robust.
    """
    token = _TRUE.set(True)
    try:
        yield
    finally:
        _TRUE.reset(token)


class _Round(torch.autograd.Function):
    """clamp(round_half_even(u), low, high); the gradient passes, except under `floor`."""

    @staticmethod
    def forward(ctx: Any, u: Tensor, low: float, high: float, rectifies: bool) -> Tensor:
        ctx.passes = u >= low if rectifies and ctx.needs_input_grad[0] else None
        ctx.flat = _TRUE.get()
        return u.round().clamp_(low, high)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        if ctx.flat:
            return torch.zeros_like(gradient), None, None, None
        return gradient if ctx.passes is None else gradient * ctx.passes, None, None, None


def quantize(u: Tensor, low: float, high: float, *, rectifies: bool) -> Tensor:
    """Integers nearest to `u` (ties to even) within [low, high], with a useful gradient.

    Saturation passes the gradient: the true derivative of the clamp is zero for a pixel at the edge
    of the input's range, which then never moves, and an attack that obeys it overstates robustness.
    Below `low` it passes unless `rectifies`: there the clamp stands for a fused ReLU.
    """
    rounded: Tensor = _Round.apply(u, low, high, rectifies)
    return rounded


class _Step(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, stepped: Tensor) -> Tensor:  # noqa: ARG004
        ctx.flat = _TRUE.get()
        return stepped.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return torch.zeros_like(gradient) if ctx.flat else gradient, None


def pass_through(x: Tensor, stepped: Tensor) -> Tensor:
    """The values of `stepped`, a staircase of `x`, with the gradient of `x` itself."""
    values: Tensor = _Step.apply(x, stepped)
    return values
