"""Reductions of the ONNX operator set, in torch.

Shapes: R rows of n numbers. Sums over trailing axes add in the order of ONNX Runtime's CPU kernel:
before a QuantizeLinear the last bit of a mean decides ties, which are common for small n.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import reduce
from typing import Any

import torch
from torch import Tensor

from hardening.errors import ModelError

LANES = 4
"""float32 numbers that ONNX Runtime's generic x86-64 code adds at once (16 bytes)."""


class _RowSums(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        ctx.count = rows.shape[1]
        return row_sums(rows)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient.unsqueeze(1).expand(-1, ctx.count)


def row_sums(rows: Tensor) -> Tensor:
    """Sums (R,) of `rows` (R, n): four lanes at a time from the first 16-byte boundary of a row."""
    count = rows.shape[1]
    if count % LANES == 0:
        return _sums_from(rows, 0)
    starts = -count * torch.arange(len(rows), device=rows.device) % LANES
    sums = rows.new_empty(len(rows))
    for start in range(LANES):
        here = starts == start
        sums[here] = _sums_from(rows[here], min(start, count))
    return sums


def _sums_from(rows: Tensor, start: int) -> Tensor:
    packets = (rows.shape[1] - start) // LANES
    if not packets:
        return _in_turn(rows.unbind(1))
    end = start + packets * LANES
    lanes = rows[:, start:end].unflatten(1, (packets, LANES)).transpose(0, 1).contiguous().unbind()
    total = lanes[0]
    if packets > 1:
        paired = packets // 2 * 2
        total = _in_turn(lanes[0:paired:2]) + _in_turn(lanes[1:paired:2])
        total = _in_turn((total, *lanes[paired:]))
    first, second, third, fourth = total.unbind(1)
    whole = (first + third) + (second + fourth)
    return _in_turn((whole, *rows[:, :start].unbind(1), *rows[:, end:].unbind(1)))


def _in_turn(parts: Iterable[Tensor]) -> Tensor:
    return reduce(torch.add, parts)


def _sum(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    trailing = sorted(axis % x.dim() for axis in axes) == list(range(x.dim() - len(axes), x.dim()))
    if not trailing or len(axes) == x.dim() or x.dtype != torch.float32:
        return x.sum(axes, keep)
    kept = x.shape[: x.dim() - len(axes)]
    sums: Tensor = _RowSums.apply(x.reshape(kept.numel(), -1))
    return sums.reshape(*kept, *([1] * len(axes) if keep else []))


def _mean(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    sums = _sum(x, axes, keep)
    return sums / (x.numel() // max(1, sums.numel()))


def _reduction(function: Callable[[Tensor, list[int], bool], Tensor]) -> Callable[..., Tensor]:
    """An operator whose axes are an attribute up to opset 17 and an input from 18 on."""

    def operator(
        x: Tensor,
        over: Tensor | None = None,
        *,
        axes: Sequence[int] = (),
        keepdims: int = 1,
        noop_with_empty_axes: int = 0,
    ) -> Tensor:
        chosen = list(axes) if over is None else [int(axis) for axis in over.tolist()]
        if not chosen and noop_with_empty_axes:
            return x
        return function(x, chosen or list(range(x.dim())), bool(keepdims))

    return operator


def largest(x: Tensor, *, axis: int = 0, keepdims: int = 1, select_last_index: int = 0) -> Tensor:
    """ArgMax: an index has no gradient."""
    if select_last_index:
        raise ModelError("got an ArgMax with select_last_index, expected the first")
    return x.argmax(axis, bool(keepdims))


REDUCTION: dict[str, Callable[..., Tensor]] = {
    "ArgMax": largest,
    "ReduceL1": _reduction(lambda x, axes, keep: x.abs().sum(axes, keep)),
    "ReduceL2": _reduction(lambda x, axes, keep: x.pow(2).sum(axes, keep).sqrt()),
    "ReduceLogSumExp": _reduction(lambda x, axes, keep: x.logsumexp(axes, keep)),
    "ReduceMax": _reduction(lambda x, axes, keep: x.amax(axes, keep)),
    "ReduceMean": _reduction(_mean),
    "ReduceMin": _reduction(lambda x, axes, keep: x.amin(axes, keep)),
    "ReduceSum": _reduction(_sum),
    "ReduceSumSquare": _reduction(lambda x, axes, keep: x.pow(2).sum(axes, keep)),
}
