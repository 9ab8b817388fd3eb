"""QuantizeLinear and DequantizeLinear; integers are held in float tensors so gradients flow."""

from collections.abc import Callable

import torch
from torch import Tensor

from hardening.deployment.operators.straight_through import quantize
from hardening.errors import ModelError

RANGES = {
    torch.uint8: (0, 255),
    torch.int8: (-128, 127),
    torch.uint16: (0, 65535),
    torch.int16: (-32768, 32767),
    torch.int32: (-(2**31), 2**31 - 1),
}


def quantize_linear(
    x: Tensor, scale: Tensor, zero_point: Tensor | None = None, *, axis: int = 1
) -> Tensor:
    """QuantizeLinear, per tensor or along `axis`: round(x / scale) + zero point, saturated."""
    point, (low, high) = origin(scale, zero_point)
    zero = float(point.reshape(-1)[0])
    if bool((point != zero).any()):
        raise ModelError("got different zero points in one QuantizeLinear, expected one")
    steps = x / along(scale, axis, x)
    return quantize(steps, low - zero, high - zero, rectifies=zero == low) + zero


def dequantize_linear(
    x: Tensor, scale: Tensor, zero_point: Tensor | None = None, *, axis: int = 1
) -> Tensor:
    """DequantizeLinear, per tensor or along `axis`: (x - zero point) * scale."""
    point, _ = origin(scale, zero_point)
    x = x.to(scale.device, torch.float32)
    return (x - along(point, axis, x)) * along(scale, axis, x)


def origin(scale: Tensor, zero_point: Tensor | None) -> tuple[Tensor, tuple[int, int]]:
    """The zero point as floats beside `scale`, and the range that its type means."""
    if zero_point is None:
        return torch.zeros_like(scale), RANGES[torch.uint8]
    if zero_point.dtype not in RANGES:
        raise ModelError(f"got a zero point of {zero_point.dtype}, expected an integer")
    return zero_point.to(scale.device, torch.float32), RANGES[zero_point.dtype]


def along(values: Tensor, axis: int, like: Tensor) -> Tensor:
    """Reshape one value, or one per index of `axis`, so that it broadcasts over `like`."""
    if values.numel() == 1:
        return values.reshape(())
    shape = [1] * like.dim()
    shape[axis] = -1
    return values.reshape(shape)


QUANTIZATION: dict[str, Callable[..., Tensor]] = {
    "DequantizeLinear": dequantize_linear,
    "QuantizeLinear": quantize_linear,
}
