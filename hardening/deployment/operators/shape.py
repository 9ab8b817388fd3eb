"""Operators that reform tensors and compute shapes of the ONNX operator set, in torch.

Positional parameters are an operator's inputs, keyword-only ones its attributes with ONNX defaults.
Integer tensors that describe shapes stay on the CPU; float tensors are on the images' device.
"""

import math
from collections.abc import Callable, Sequence

import torch
from onnx import TensorProto
from torch import Tensor

from hardening.errors import ModelError

DTYPES: dict[int, torch.dtype] = {
    TensorProto.FLOAT: torch.float32,
    TensorProto.UINT8: torch.uint8,
    TensorProto.INT8: torch.int8,
    TensorProto.INT32: torch.int32,
    TensorProto.INT64: torch.int64,
    TensorProto.BOOL: torch.bool,
    TensorProto.FLOAT16: torch.float16,
    TensorProto.DOUBLE: torch.float64,
    TensorProto.BFLOAT16: torch.bfloat16,
}


def integers(values: Tensor) -> list[int]:
    """A shape tensor as Python numbers."""
    return [int(value) for value in values.reshape(-1).tolist()]


def reshape(x: Tensor, shape: Tensor, *, allowzero: int = 0) -> Tensor:
    """Reshape; 0 copies a size unless `allowzero`."""
    sizes = integers(shape)
    if not allowzero:
        sizes = [x.shape[axis] if size == 0 else size for axis, size in enumerate(sizes)]
    return x.reshape(sizes)


def flatten(x: Tensor, *, axis: int = 1) -> Tensor:
    """Flatten to a matrix."""
    return x.reshape(math.prod(x.shape[:axis]), -1)


def transpose(x: Tensor, *, perm: Sequence[int] = ()) -> Tensor:
    """Transpose; without `perm` the axes are reversed."""
    return x.permute(*(perm or reversed(range(x.dim()))))


def squeeze(x: Tensor, axes: Tensor | None = None) -> Tensor:
    """Squeeze the given axes, or all of size one."""
    return x.squeeze() if axes is None else x.squeeze(tuple(integers(axes)))


def unsqueeze(x: Tensor, axes: Tensor) -> Tensor:
    """Unsqueeze; axes count in the result."""
    rank = x.dim() + axes.numel()
    for axis in sorted(axis % rank for axis in integers(axes)):
        x = x.unsqueeze(axis)
    return x


def expand(x: Tensor, shape: Tensor) -> Tensor:
    """Expand by two-way broadcasting."""
    return x.expand(torch.broadcast_shapes(x.shape, integers(shape)))


def tile(x: Tensor, repeats: Tensor) -> Tensor:
    """Tile."""
    return x.repeat(integers(repeats))


def shape_of(x: Tensor, *, start: int = 0, end: int | None = None) -> Tensor:
    """Shape, or a part of it."""
    return torch.tensor(list(x.shape)[start:end], dtype=torch.int64)


def cast(x: Tensor, *, to: int) -> Tensor:
    """Cast among the types of `DTYPES`."""
    if to not in DTYPES:
        kind = TensorProto.DataType.Name(to)
        raise ModelError(f"got a Cast to {kind}, expected a type of torch")
    return x.to(DTYPES[to])


def identity(x: Tensor) -> Tensor:
    """Identity."""
    return x


def dropout(x: Tensor, _ratio: Tensor | None = None) -> Tensor:
    """Dropout at inference: nothing."""
    return x


def count(start: Tensor, limit: Tensor, delta: Tensor) -> Tensor:
    """Range."""
    return torch.arange(start.item(), limit.item(), delta.item(), dtype=start.dtype)


def constant_of_shape(shape: Tensor, *, value: Tensor | None = None) -> Tensor:
    """ConstantOfShape, zeros unless told."""
    filling = torch.zeros(1) if value is None else value
    return torch.full(integers(shape), filling.item(), dtype=filling.dtype)


def size_of(x: Tensor) -> Tensor:
    """Size: the number of elements."""
    return torch.tensor(x.numel())


def depth_to_space(x: Tensor, *, blocksize: int, mode: str = "DCR") -> Tensor:
    """DepthToSpace of images (B, C, H, W), the block first (DCR) or last (CRD) among channels."""
    b, c, h, w = x.shape
    if mode == "CRD":
        blocks = x.reshape(b, -1, blocksize, blocksize, h, w).permute(0, 1, 4, 2, 5, 3)
    else:
        blocks = x.reshape(b, blocksize, blocksize, -1, h, w).permute(0, 3, 4, 1, 5, 2)
    return blocks.reshape(b, c // blocksize**2, h * blocksize, w * blocksize)


def space_to_depth(x: Tensor, *, blocksize: int) -> Tensor:
    """SpaceToDepth of images (B, C, H, W)."""
    b, c, h, w = x.shape
    blocks = x.reshape(b, c, h // blocksize, blocksize, w // blocksize, blocksize)
    return blocks.permute(0, 3, 5, 1, 2, 4).reshape(b, -1, h // blocksize, w // blocksize)


SHAPE: dict[str, Callable[..., Tensor]] = {
    "Cast": cast,
    "ConstantOfShape": constant_of_shape,
    "DepthToSpace": depth_to_space,
    "Dropout": dropout,
    "Expand": expand,
    "Flatten": flatten,
    "Identity": identity,
    "Range": count,
    "Reshape": reshape,
    "Shape": shape_of,
    "Size": size_of,
    "SpaceToDepth": space_to_depth,
    "Squeeze": squeeze,
    "Tile": tile,
    "Transpose": transpose,
    "Unsqueeze": unsqueeze,
}
