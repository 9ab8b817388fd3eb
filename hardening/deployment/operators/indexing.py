"""Operators that cut, join and address elements of the ONNX operator set, in torch.

Positional parameters are an operator's inputs, keyword-only ones its attributes with ONNX defaults.
Integer tensors that describe shapes stay on the CPU; float tensors are on the images' device.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from hardening.deployment.operators.shape import integers
from hardening.errors import ModelError


def concatenate(*parts: Tensor, axis: int) -> Tensor:
    """Concat."""
    return torch.cat(parts, axis)


def split(
    x: Tensor, sizes: Tensor | None = None, *, axis: int = 0, num_outputs: int = 0
) -> tuple[Tensor, ...]:
    """Split into parts of given sizes, or into `num_outputs` equal ones (the last may be less)."""
    if sizes is not None:
        return tuple(torch.split(x, integers(sizes), axis))
    if not num_outputs:
        raise ModelError("got a Split without sizes and num_outputs, expected one of them")
    return tuple(torch.split(x, math.ceil(x.shape[axis] / num_outputs), axis))


def cut(
    x: Tensor,
    starts: Tensor,
    ends: Tensor,
    axes: Tensor | None = None,
    steps: Tensor | None = None,
) -> Tensor:
    """Slice; negative steps walk backwards."""
    begins, stops = integers(starts), integers(ends)
    chosen = integers(axes) if axes is not None else list(range(len(begins)))
    strides = integers(steps) if steps is not None else [1] * len(begins)
    for begin, stop, axis, stride in zip(begins, stops, chosen, strides, strict=True):
        kept = range(x.shape[axis])[begin:stop:stride]
        if stride == 1:
            x = x.narrow(axis, kept.start, len(kept))
        else:
            x = x.index_select(axis, torch.tensor(list(kept), dtype=torch.int64, device=x.device))
    return x


def gather(x: Tensor, indices: Tensor, *, axis: int = 0) -> Tensor:
    """Gather whole slices along `axis`; negative indices count from the end."""
    axis %= x.dim()
    places = torch.where(indices < 0, indices + x.shape[axis], indices).to(x.device).long()
    shape = (*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :])
    return x.index_select(axis, places.reshape(-1)).reshape(shape)


def gather_elements(x: Tensor, indices: Tensor, *, axis: int = 0) -> Tensor:
    """GatherElements; negative indices count from the end."""
    places = torch.where(indices < 0, indices + x.shape[axis], indices).to(x.device).long()
    return x.gather(axis, places)


def gather_nd(x: Tensor, indices: Tensor, *, batch_dims: int = 0) -> Tensor:
    """GatherND without batch dimensions."""
    if batch_dims:
        raise ModelError(f"got a GatherND with batch_dims {batch_dims}, expected 0")
    return x[tuple(indices.long().to(x.device).unbind(-1))]


def scatter_nd(x: Tensor, indices: Tensor, updates: Tensor, *, reduction: str = "none") -> Tensor:
    """ScatterND that replaces elements."""
    if reduction != "none":
        raise ModelError(f"got a ScatterND with reduction {reduction}, expected none")
    return x.index_put(tuple(indices.long().to(x.device).unbind(-1)), updates)


def pad(
    x: Tensor,
    pads: Tensor,
    value: Tensor | None = None,
    axes: Tensor | None = None,
    *,
    mode: str = "constant",
) -> Tensor:
    """Pad with a constant, or by reflection or repetition of the spatial axes."""
    sizes = integers(pads)
    chosen = integers(axes) if axes is not None else list(range(x.dim()))
    # torch counts axes from the last one, in pairs of beginning and end.
    full = [0] * (2 * x.dim())
    for place, axis in enumerate(chosen):
        first = 2 * (x.dim() - 1 - axis % x.dim())
        full[first : first + 2] = [sizes[place], sizes[place + len(chosen)]]
    if mode == "constant":
        return F.pad(x, full, value=0.0 if value is None else float(value.item()))
    spatial = 2 * (x.dim() - 2)
    modes = {"reflect": "reflect", "edge": "replicate"}
    if mode not in modes or any(full[spatial:]):
        raise ModelError(f"got a Pad with mode {mode}, expected constant, or spatial reflect, edge")
    return F.pad(x, full[:spatial], modes[mode])


def where(condition: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Where."""
    return torch.where(condition.to(x.device), x, y.to(x.device))


INDEXING: dict[str, Callable[..., Any]] = {
    "Concat": concatenate,
    "Gather": gather,
    "GatherElements": gather_elements,
    "GatherND": gather_nd,
    "Pad": pad,
    "ScatterND": scatter_nd,
    "Slice": cut,
    "Split": split,
    "Where": where,
}
