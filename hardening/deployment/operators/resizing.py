"""Resize of the ONNX operator set, in torch: one axis after the other.

Positional parameters are an operator's inputs, keyword-only ones its attributes with ONNX defaults.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from hardening.errors import ModelError

Coordinates = Callable[[Tensor, float, int, int], Tensor]
"""Positions in the input of output positions, the scale, and sizes of input and output."""

COORDINATES: dict[str, Coordinates] = {
    "align_corners": lambda at, _, size, target: at * ((size - 1) / max(1, target - 1)),
    "asymmetric": lambda at, scale, *_: at / scale,
    "half_pixel": lambda at, scale, *_: (at + 0.5) / scale - 0.5,
    "pytorch_half_pixel": lambda at, scale, _, target: (
        (at + 0.5) / scale - 0.5 if target > 1 else at * 0
    ),
}

NEAREST: dict[str, Callable[[Tensor], Tensor]] = {
    "ceil": torch.ceil,
    "floor": torch.floor,
    "round_prefer_ceil": lambda at: (at + 0.5).floor(),
    "round_prefer_floor": lambda at: (at - 0.5).ceil(),
}


def resize(
    x: Tensor,
    _region: Tensor | None = None,
    scales: Tensor | None = None,
    sizes: Tensor | None = None,
    *,
    antialias: int = 0,
    axes: Sequence[int] = (),
    coordinate_transformation_mode: str = "half_pixel",
    cubic_coeff_a: float = -0.75,
    exclude_outside: int = 0,
    keep_aspect_ratio_policy: str = "stretch",
    mode: str = "nearest",
    nearest_mode: str = "round_prefer_floor",
) -> Tensor:
    """Resize by nearest, linear or cubic interpolation, without antialiasing."""
    if antialias or exclude_outside or keep_aspect_ratio_policy != "stretch":
        raise ModelError(
            f"got a Resize with antialias {antialias}, exclude_outside {exclude_outside}, "
            f"{keep_aspect_ratio_policy}, expected a plain one"
        )
    if coordinate_transformation_mode not in COORDINATES or nearest_mode not in NEAREST:
        raise ModelError(
            f"got a Resize with {coordinate_transformation_mode}, {nearest_mode}, expected "
            f"{sorted(COORDINATES)} and {sorted(NEAREST)}"
        )
    place = COORDINATES[coordinate_transformation_mode]
    for axis, scale, target in _targets(x, scales, sizes, axes):
        if target == x.shape[axis] and scale == 1:
            continue
        at = torch.arange(target, dtype=torch.float32)
        at = place(at, scale, x.shape[axis], target)
        if mode == "nearest":
            taps = [(NEAREST[nearest_mode](at), torch.ones(target))]
        elif mode == "linear":
            taps = _linear(at.clamp(0, x.shape[axis] - 1))
        else:
            taps = _cubic(at, cubic_coeff_a)
        x = _interpolate(x, axis, taps)
    return x


def _targets(
    x: Tensor, scales: Tensor | None, sizes: Tensor | None, axes: Sequence[int]
) -> list[tuple[int, float, int]]:
    """Axes with their scales and new sizes."""
    chosen = [axis % x.dim() for axis in axes] or list(range(x.dim()))
    if scales is not None and scales.numel():
        factors = [float(scale) for scale in scales.tolist()]
        return [(a, f, int(x.shape[a] * f)) for a, f in zip(chosen, factors, strict=True)]
    if sizes is None:
        raise ModelError("got a Resize without scales and sizes, expected one of them")
    wanted = [int(size) for size in sizes.tolist()]
    return [(a, size / x.shape[a], size) for a, size in zip(chosen, wanted, strict=True)]


def _linear(at: Tensor) -> list[tuple[Tensor, Tensor]]:
    low = at.floor()
    return [(low, 1 - (at - low)), (low + 1, at - low)]


def _cubic(at: Tensor, a: float) -> list[tuple[Tensor, Tensor]]:
    """Keys 1981, https://doi.org/10.1109/TASSP.1981.1163711: four taps around each position."""
    low = at.floor()
    taps = []
    for step in (-1, 0, 1, 2):
        d = (at - low - step).abs()
        near = ((a + 2) * d - (a + 3)) * d * d + 1
        far = ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
        taps.append((low + step, near if step in {0, 1} else far))
    return taps


def _interpolate(x: Tensor, axis: int, taps: list[tuple[Tensor, Tensor]]) -> Tensor:
    """The sum over `taps` of (place, weight) along `axis`; places beyond the border repeat it."""
    result = None
    shape = [-1, *[1] * (x.dim() - 1 - axis)]
    for place, weight in taps:
        index = place.long().clamp(0, x.shape[axis] - 1).to(x.device)
        part = x.index_select(axis, index)
        if len(taps) > 1:
            part = part * weight.to(x.device).view(shape)
        result = part if result is None else result + part
    assert result is not None
    return result


RESIZING: dict[str, Callable[..., Tensor]] = {"Resize": resize}
