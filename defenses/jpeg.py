"""JPEG compression in front of a model, https://arxiv.org/abs/1608.00853.

Shapes: B images, C channels (1 or 3), H x W pixels, h x w blocks of 8 x 8, K classes.
"""

from collections.abc import Sequence
from math import pi, sqrt
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from defenses.declaration import declares
from defenses.preprocessing import Prepared, in_front
from hardening.data import TrainingData
from hardening.deployment.twin import Twin
from hardening.errors import ModelError
from hardening.log import Log
from hardening.spec import Spec
from hardening.threat import ThreatModel

Quality = Annotated[int, Field(ge=1, le=100)]

LUMINANCE = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)
"""Steps of the coefficients at quality 50: ITU-T T.81, table K.1."""

CHROMINANCE = (
    (17, 18, 24, 47, 99, 99, 99, 99),
    (18, 21, 26, 66, 99, 99, 99, 99),
    (24, 26, 56, 99, 99, 99, 99, 99),
    (47, 66, 99, 99, 99, 99, 99, 99),
    *((99,) * 8,) * 4,
)
"""Of the two colour planes, table K.2."""

BLOCK = 8
"""Pixels of a side."""

FROM_RGB = (
    (0.299, 0.587, 0.114),
    (-0.168735892, -0.331264108, 0.5),
    (0.5, -0.418687589, -0.081312411),
)
"""Rows Y, Cb, Cr of ITU-T T.871, for levels from -128 to 127."""

TO_RGB = ((1.0, 0.0, 1.402), (1.0, -0.344136286, -0.714136286), (1.0, 1.772, 0.0))

TIES = 1e-4
"""Levels by which a tie is moved before it is rounded. Of whole grey levels, sums and coefficients
are often ties, and two programs that compute them in different orders would part there. Neither a
colour nor a coefficient that is a fraction of whole numbers comes that near to a tie by chance."""


@declares(
    "JPEG in front of the model, inside the file",
    due=("bpda", "gradient-free"),
    status="BROKEN",
    passes=lambda _: 0,
    claim="compression removes small adversarial perturbations",
)
def jpeg(
    model: nn.Module,
    data: TrainingData,
    threat: ThreatModel,  # noqa: ARG001
    rng: torch.Generator,  # noqa: ARG001
    log: Log,
    /,
    *,
    quality: Quality = 75,
) -> Prepared | Twin:
    """Compress and decompress each image before `model` sees it; nothing is trained.

    As tensor operations it is part of the exported file. It takes away small perturbations of
    attackers who do not know of it, and gradients of those who do: an attack that passes them
    through the rounding breaks it (https://arxiv.org/abs/1802.00420).

    Args:
        quality: 100 rounds coefficients to whole numbers, 75 is what photographs are saved with.

    Raises:
        ModelError: Images have neither 1 nor 3 channels, or a file cannot be put behind it.
    """
    channels, height, width = data.train.images.shape[1:]
    if channels not in {1, 3}:
        raise ModelError(f"jpeg: got images of {channels} channels, expected 1 (grey) or 3 (RGB)")
    spec = Spec(name="jpeg", params={"quality": quality})
    log.line(f"jpeg of quality {quality} in front of the model")
    return in_front(model, spec, Codec(quality), (channels, height, width))


def behind_jpeg(parts: Sequence[nn.Module], *, quality: Quality) -> Prepared:
    """A model behind JPEG, as its file describes it."""
    return Prepared(Spec(name="jpeg", params={"quality": quality}), parts, Codec(quality))


class Codec(nn.Module):
    """Images (B, C, H, W) in [0, 1] to what a decoder makes of their JPEG, in 256 levels.

    Colours are not subsampled (4:4:4). In float64: of a million coefficients in float32 one or two
    are so near a tie that programs differ in how they round them, and this must be one function
    wherever it runs.
    """

    basis: Tensor
    tables: Tensor
    from_rgb: Tensor
    to_rgb: Tensor

    def __init__(self, quality: int) -> None:
        super().__init__()
        for name, values in (
            ("basis", cosines()),
            ("tables", quantization_tables(quality)),
            ("from_rgb", torch.tensor(FROM_RGB, dtype=torch.float64)),
            ("to_rgb", torch.tensor(TO_RGB, dtype=torch.float64)),
        ):
            self.register_buffer(name, values, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Of the shape and type of `x`."""
        colour = x.shape[1] == 3
        planes = _rounded(255 * x.double()) - 128
        if colour:
            planes = _rounded(_mixed(self.from_rgb, planes))
        tables = self.tables[[0, 1, 1] if colour else [0]][:, None, None]
        coefficients = _both_ways(self.basis, _blocks(planes))
        kept = _rounded(coefficients / tables) * tables
        planes = _image(_decoded(_both_ways(self.basis.T, kept)), *x.shape[2:])
        if colour:
            planes = _decoded(_mixed(self.to_rgb, planes))
        decoded: Tensor = ((planes + 128) / 255).to(x.dtype)
        return decoded


def cosines() -> Tensor:
    """The orthonormal discrete cosine transform of 8 numbers, (8, 8) float64: a row a frequency."""
    place = torch.arange(BLOCK, dtype=torch.float64)
    basis = torch.cos(pi / BLOCK * (place + 0.5) * place[:, None]) / 2
    basis[0] /= sqrt(2)
    return basis


def quantization_tables(quality: int) -> Tensor:
    """Steps of luminance and chrominance, (2, 8, 8) float64, as libjpeg scales them."""
    percent = 5000 // quality if quality < 50 else 200 - 2 * quality
    at_50 = torch.tensor((LUMINANCE, CHROMINANCE))
    tables = torch.div(at_50 * percent + 50, 100, rounding_mode="floor")
    return tables.clamp(1, 255).double()


def _rounded(x: Tensor) -> Tensor:
    return (x + TIES).round()


def _decoded(x: Tensor) -> Tensor:
    """The nearest of the levels that 8 bits have."""
    return _rounded(x).clamp(-128, 127)


def _mixed(matrix: Tensor, planes: Tensor) -> Tensor:
    """Every pixel of (B, 3, H, W) through a 3 x 3 matrix."""
    mixed: Tensor = matrix @ planes.flatten(2)
    return mixed.reshape(planes.shape)


def _both_ways(basis: Tensor, blocks: Tensor) -> Tensor:
    """Rows and columns of blocks (..., 8, 8) through `basis`, which always stands on the left.

    There no quantizer of weights looks for them.
    """
    transposed: Tensor = basis @ (basis @ blocks).mT
    return transposed.mT


def _blocks(planes: Tensor) -> Tensor:
    """Planes (B, C, H, W) as blocks (B, C, h, w, 8, 8), their last row and column repeated."""
    height, width = planes.shape[2:]
    more = (0, -width % BLOCK, 0, -height % BLOCK)
    padded = F.pad(planes, more, mode="replicate") if any(more) else planes
    cut: Tensor = padded.unflatten(3, (-1, BLOCK)).unflatten(2, (-1, BLOCK))
    return cut.transpose(3, 4)


def _image(blocks: Tensor, height: int, width: int) -> Tensor:
    """Inverse of `_blocks`: (B, C, H, W)."""
    return blocks.transpose(3, 4).flatten(4, 5).flatten(2, 3)[:, :, :height, :width]
