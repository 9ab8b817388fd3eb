"""ONNX Runtime's int8 kernels without weights, bit for bit: sums, products and averages.

Shapes: B images, C channels. Integers are held in float tensors; see `integer`.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from hardening.deployment.integer import EXACT, Grid


class Addition(nn.Module):
    """QLinearAdd: two fused multiply-adds in float32, then one rounding."""

    def __init__(self, first: Grid, second: Grid, result: Grid) -> None:
        super().__init__()
        self.result = result
        ratio, other = first.step / result.step, second.step / result.step
        # The constant comes out of a fused multiply-add, too: only its last sum and product round.
        zeros = np.float32(
            np.float64(ratio) * first.zero + np.float64(other * np.float32(second.zero))
        )
        self.ratio, self.other = float(ratio), float(other)
        offset = torch.tensor(float(np.float32(result.zero) - zeros))
        self.register_buffer("offset", offset, persistent=False)

    offset: Tensor

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Integers in, integers out."""
        # torch.add with alpha is a fused multiply-add; a product and a sum would round twice, which
        # changes one result in about 650,000.
        partial = torch.add(self.offset, y.to(self.offset), alpha=self.other)
        sums = torch.add(partial, x.to(self.offset), alpha=self.ratio)
        return self.result.nearest_shifted(sums)


class Multiplication(nn.Module):
    """QLinearMul: integer product, one float32 scale, rounded after the zero point is added."""

    def __init__(self, first: Grid, second: Grid, result: Grid) -> None:
        super().__init__()
        self.zeros, self.result = (first.zero, second.zero), result
        self.register_buffer("factor", _ratio(first, second, result), persistent=False)

    factor: Tensor

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Integers in, integers out."""
        product = (x.to(self.factor) - self.zeros[0]) * (y.to(self.factor) - self.zeros[1])
        return self.result.nearest_shifted(product * self.factor + self.result.zero)


class Concatenation(nn.Module):
    """QLinearConcat: every part is brought to the grid of the result."""

    def __init__(self, axis: int, sources: Sequence[Grid], result: Grid) -> None:
        super().__init__()
        self.axis, self.sources, self.result = axis, tuple(sources), result

    def forward(self, *parts: Tensor) -> Tensor:
        """Integers in, integers out."""
        step = float(self.result.step)
        moved = [
            self.result.nearest((part.float() - grid.zero) * float(grid.step) / step)
            for part, grid in zip(parts, self.sources, strict=True)
        ]
        return torch.cat(moved, self.axis)


class MatrixProduct(nn.Module):
    """QLinearMatMul of two activations: integer sums, one float32 scale."""

    def __init__(self, first: Grid, second: Grid, result: Grid) -> None:
        super().__init__()
        self.zeros, self.result = (first.zero, second.zero), result
        self.register_buffer("factor", _ratio(first, second, result), persistent=False)

    factor: Tensor

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Integers in, integers out."""
        exact = torch.float32 if x.shape[-1] * 255**2 <= EXACT else torch.float64
        first, second = x.to(self.factor) - self.zeros[0], y.to(self.factor) - self.zeros[1]
        sums = first.to(exact) @ second.to(exact)
        return self.result.nearest(sums.float() * self.factor)


def _ratio(first: Grid, second: Grid, result: Grid) -> Tensor:
    return torch.tensor(float(first.step * second.step / result.step))


class Average(nn.Module):
    """QLinearAveragePool: floats inside, rounded after the zero point is added.

    A window that is the whole map, `window` if there is no padding, is averaged in integers.
    """

    def __init__(
        self,
        pool: Callable[[Tensor], Tensor],
        window: tuple[int, ...],
        source: Grid,
        result: Grid,
    ) -> None:
        super().__init__()
        self.pool, self.window, self.source, self.result = pool, window, source, result
        self.whole = GlobalAverage(source, result)

    def forward(self, x: Tensor) -> Tensor:
        """Integers in, integers out."""
        if x.shape[2:] == self.window:
            averages: Tensor = self.whole(x)
            return averages
        mean = self.pool((x - self.source.zero) * float(self.source.step))
        return self.result.nearest_shifted(mean / float(self.result.step) + self.result.zero)


class GlobalAverage(nn.Module):
    """QLinearGlobalAveragePool: integer sum over the map, one float32 scale."""

    def __init__(self, source: Grid, result: Grid) -> None:
        super().__init__()
        self.source, self.result = source, result

    def forward(self, x: Tensor) -> Tensor:
        """Integers (B, C, ...) in, integers (B, C, 1, ...) out."""
        spatial = tuple(range(2, x.dim()))
        pixels = np.float32(x.shape[2:].numel())
        sums = (x - self.source.zero).sum(spatial, keepdim=True)
        factor = self.source.step / (self.result.step * pixels)
        return self.result.nearest(sums * float(factor))
