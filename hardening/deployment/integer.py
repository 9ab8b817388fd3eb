"""ONNX Runtime's int8 kernels, bit for bit: integer accumulators, one float32 scale, one rounding.

Shapes: B images, O output channels. Integers are held in float tensors so that gradients can flow;
backward is the straight-through rule of `operators.straight_through`. The formulas were confirmed
against ONNX Runtime's CPU kernels on x86-64 with VNNI by comparing every integer of many networks.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from hardening.deployment.bytes import ByteConvolution, Geometry, available
from hardening.deployment.operators.straight_through import quantize

EXACT = 2**24
"""Integers up to here, and so their sums in any order, are exact in float32."""


class Grid(NamedTuple):
    """The integers `low` to `high` stand for (integer - zero) * scale."""

    scale: Tensor  # float32, () or (O,)
    zero: float
    low: int
    high: int

    @property
    def step(self) -> np.float32:
        """The scale of a grid that has only one."""
        return np.float32(self.scale.item())

    def nearest(self, steps: Tensor) -> Tensor:
        """Integers for values given in `steps` from the zero point."""
        rectifies = self.zero == self.low
        rounded = quantize(steps, self.low - self.zero, self.high - self.zero, rectifies=rectifies)
        return rounded + self.zero if self.zero else rounded

    def nearest_shifted(self, steps: Tensor) -> Tensor:
        """The same for `steps` that count from integer 0: the zero point is in before rounding."""
        return quantize(steps, self.low, self.high, rectifies=self.zero == self.low)


class WeightedSum(nn.Module):
    """QLinearConv, QGemm or MatMulInteger with constant weights.

    `product(x, weight, bias)` sums in integers; without a `result` grid the sums are only scaled.
    float32 holds the sums where they are certain to be exact, else they are made of `pieces` over
    parts of the input channels (axis 1 of images and weights) that are, or in float64.
    """

    def __init__(
        self,
        product: Callable[[Tensor, Tensor, Tensor | None], Tensor],
        source: Grid,
        weight: Tensor,
        bias: Tensor | None,
        factor: Tensor,
        result: Grid | None,
        *,
        separable: bool,
        shape: Geometry | None = None,
    ) -> None:
        super().__init__()
        self.product, self.source, self.result = product, source, result
        self.width = _exact_width(source, weight, bias) if separable else weight.shape[1]
        exact = max(largest_sum(source, part, bias) for part in weight.split(self.width, 1))
        dtype = torch.float32 if exact <= EXACT else torch.float64
        self.register_buffer("weight", weight.to(dtype), persistent=False)
        self.register_buffer("bias", None if bias is None else bias.to(dtype), persistent=False)
        self.register_buffer("factor", factor, persistent=False)
        self.fast = None if shape is None else self._on_bytes(shape)

    weight: Tensor
    bias: Tensor | None
    factor: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """Integers in, integers (or float32 numbers) out."""
        if self.fast is not None and x.device.type == "cpu":
            sums = self._fast_sums(x)
        else:
            x = x - self.source.zero if self.source.zero else x
            sums = self._sums(x.to(self.weight.dtype)).float()
        steps = sums * self.factor
        return steps if self.result is None else self.result.nearest(steps)

    def _on_bytes(self, shape: Geometry) -> nn.ModuleList | None:
        """The same sums on int8 instructions, for unsigned images and signed weights."""
        signed = bool((self.weight == self.weight.to(torch.int8)).all())
        if self.source.low or not signed or self.weight.dtype != torch.float32 or not available():
            return None
        parts = self.weight.split(self.width, 1)
        return nn.ModuleList(ByteConvolution(part, int(self.source.zero), shape) for part in parts)

    def _fast_sums(self, x: Tensor) -> Tensor:
        assert self.fast is not None
        bias = 0 if self.bias is None else self.bias.view(-1, 1, 1)
        if len(self.fast) == 1:
            sums: Tensor = self.fast[0](x) + bias
            return sums
        parts = x.split(self.width, 1)
        # Each part is exact in float32, their sum need not be.
        total = sum(
            (product(part).double() for product, part in zip(self.fast, parts, strict=True)), bias
        )
        assert isinstance(total, Tensor)
        return total.float()

    def _sums(self, x: Tensor) -> Tensor:
        if self.width >= self.weight.shape[1]:
            return self.product(x, self.weight, self.bias)
        pieces = zip(x.split(self.width, 1), self.weight.split(self.width, 1), strict=True)
        part, weight = next(pieces)
        total = self.product(part, weight, self.bias).double()
        for part, weight in pieces:
            total = total + self.product(part, weight, None)
        return total


def largest_sum(source: Grid, weight: Tensor, bias: Tensor | None) -> float:
    """A bound on the magnitude of every partial sum of one output, whatever the order.

    Of a matrix neither axis is known to be the output's: the bound holds for both.
    """
    above, below = source.high - source.zero, source.zero - source.low
    positive, negative = weight.double().clamp(min=0), -weight.double().clamp(max=0)
    bounds = []
    for axes in (
        ([*range(1, weight.dim())], [0]) if weight.dim() == 2 else ([*range(1, weight.dim())],)
    ):
        plus, minus = positive.sum(axes), negative.sum(axes)
        bounds.append(
            torch.maximum(above * plus + below * minus, above * minus + below * plus).max()
        )
    return float(max(bounds) + (0 if bias is None else bias.double().abs().max()))


def _exact_width(source: Grid, weight: Tensor, bias: Tensor | None) -> int:
    """Most input channels whose sums are exact in float32; at least one."""
    width = weight.shape[1]
    while width > 1 and any(
        largest_sum(source, part, bias) > EXACT for part in weight.split(width, 1)
    ):
        width = -(-width // 2)
    return width
