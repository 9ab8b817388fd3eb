"""Quantization operators; integers are held in float tensors so gradients flow."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from onnx import TensorProto
from torch import Tensor

from hardening.deployment.operators.convolution import convolution
from hardening.deployment.operators.straight_through import quantize
from hardening.errors import ModelError

RANGES = {
    torch.uint8: (0, 255),
    torch.int8: (-128, 127),
    torch.uint16: (0, 65535),
    torch.int16: (-32768, 32767),
    torch.int32: (-(2**31), 2**31 - 1),
}

KINDS: dict[int, torch.dtype] = {
    TensorProto.UINT8: torch.uint8,
    TensorProto.INT8: torch.int8,
    TensorProto.UINT16: torch.uint16,
    TensorProto.INT16: torch.int16,
}

KERNELS = (
    "QGemm",
    "QLinearAdd",
    "QLinearAveragePool",
    "QLinearConcat",
    "QLinearConv",
    "QLinearGlobalAveragePool",
    "QLinearLeakyRelu",
    "QLinearMatMul",
    "QLinearMul",
    "QLinearSigmoid",
)
"""Operators whose scales and zero points are among their inputs: see `native`."""

TERMS = 256
"""Products of two differences of bytes whose sums are exact in float32."""


def quantize_linear(
    x: Tensor,
    scale: Tensor,
    zero_point: Tensor | None = None,
    *,
    axis: int = 1,
    output_dtype: int = 0,
) -> Tensor:
    """QuantizeLinear, per tensor or along `axis`: round(x / scale) + zero point, saturated."""
    if output_dtype and output_dtype not in KINDS:
        kind = TensorProto.DataType.Name(output_dtype)
        raise ModelError(f"got a QuantizeLinear to {kind}, expected 8 or 16 bits")
    if zero_point is None and output_dtype:
        zero_point = torch.zeros(scale.shape, dtype=KINDS[output_dtype])
    point, (low, high) = origin(scale, zero_point)
    zero = float(point.reshape(-1)[0])
    if bool((point != zero).any()):
        raise ModelError("got different zero points in one QuantizeLinear, expected one")
    steps = x / along(scale, axis, x)
    return quantize(steps, low - zero, high - zero, rectifies=zero == low) + zero


def dequantize_linear(
    x: Tensor,
    scale: Tensor,
    zero_point: Tensor | None = None,
    *,
    axis: int = 1,
    block_size: int = 0,
) -> Tensor:
    """DequantizeLinear, per tensor, along `axis` or in blocks of it: (x - zero point) * scale."""
    point, _ = origin(scale, zero_point)
    x = x.to(scale.device, torch.float32)
    if block_size:
        size = x.shape[axis]
        scale, point = (
            part.repeat_interleave(block_size, axis).narrow(axis, 0, size)
            for part in (scale, point)
        )
        return (x - point) * scale
    return (x - along(point, axis, x)) * along(scale, axis, x)


def dynamic_quantize_linear(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """DynamicQuantizeLinear: integers, scale and zero point by the range of the whole batch.

    The gradient passes the integers; scale and zero point are taken as they are.
    """
    lowest, highest = x.detach().amin().clamp(max=0), x.detach().amax().clamp(min=0)
    scale = (highest - lowest) / 255
    scale = torch.where(scale == 0, torch.ones_like(scale), scale)
    zero = (-lowest / scale).round().clamp(0, 255)
    return quantize(x / scale + zero, 0, 255, rectifies=False), scale, zero


def matrix_product(
    x: Tensor, weight: Tensor, zero: Tensor | None = None, weight_zero: Tensor | None = None
) -> Tensor:
    """MatMulInteger: products of differences from the zero points, summed in integers."""
    first, second = _from(zero, x, -2), _from(weight_zero, weight, -1)
    exact = torch.float32 if x.shape[-1] <= TERMS else torch.float64
    return (first.to(exact) @ second.to(x.device, exact)).float()


def integer_convolution(
    x: Tensor,
    weight: Tensor,
    zero: Tensor | None = None,
    weight_zero: Tensor | None = None,
    *,
    auto_pad: str = "NOTSET",
    dilations: Sequence[int] = (1,),
    group: int = 1,
    pads: Sequence[int] = (),
    strides: Sequence[int] = (1,),
) -> Tensor:
    """ConvInteger: as `matrix_product`."""
    first, second = _from(zero, x, 1), _from(weight_zero, weight, 0)
    exact = torch.float32 if weight[0].numel() <= TERMS else torch.float64
    sums = convolution(
        first.to(exact),
        second.to(x.device, exact),
        auto_pad=auto_pad,
        dilations=dilations,
        group=group,
        pads=pads,
        strides=strides,
    )
    return sums.float()


def _from(zero: Tensor | None, x: Tensor, axis: int) -> Tensor:
    x = x.float()
    return x if zero is None else x - along(zero.to(x), axis, x)


def kernel_of_constants(*inputs: Tensor | None, **attributes: Any) -> Tensor:
    """One of `KERNELS` without an image among its inputs."""
    raise ModelError(
        f"got an integer kernel of {len(inputs)} constants with {sorted(attributes)}, "
        "expected one of an image's integers"
    )


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


QUANTIZATION: dict[str, Callable[..., Any]] = {
    "ConvInteger": integer_convolution,
    "DequantizeLinear": dequantize_linear,
    "DynamicQuantizeLinear": dynamic_quantize_linear,
    "MatMulInteger": matrix_product,
    "QuantizeLinear": quantize_linear,
    **dict.fromkeys(KERNELS, kernel_of_constants),
}
