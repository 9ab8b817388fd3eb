"""Digital: less contrast, a warped picture, coarse pixels, a small file.

Shapes: B images (B, C, H, W) in [0, 1].
"""

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.io import ImageReadMode, decode_jpeg, encode_jpeg

from attacks.corruptions.blur import gaussian_blur
from attacks.corruptions.family import Family, Streams, uniform


def contrast(x: Tensor, _streams: Streams, share: float) -> Tensor:
    """Shrink each channel toward its mean."""
    mean = x.flatten(2).mean(2)[:, :, None, None]
    return (mean + share * (x - mean)).clamp(0, 1)


def elastic_transform(
    x: Tensor, streams: Streams, bend: float, smoothness: float, slant: float
) -> Tensor:
    """Move three points and the plane with them, then each pixel by a smooth random field.

    All constants are shares of the shorter side: how far single pixels are moved before the field
    is smoothed, the Gaussian that smooths it, and how far the three points are moved.
    """
    height, width = x.shape[2:]
    side = min(height, width)
    shifts = slant * side * (2 * uniform(streams, 3, 2).to(x) - 1)
    field = bend * side * (2 * uniform(streams, 2, height, width).to(x) - 1)
    field = gaussian_blur(field, smoothness * side, truncate=3)
    rows, columns = (torch.arange(n, device=x.device, dtype=x.dtype) for n in (height, width))
    down, across = rows[:, None] + field[:, 0], columns + field[:, 1]
    # The points are at (1, 1), (1, -1), (-1, -1) when the unit is a third of the side.
    unit = max(side // 3, 1)
    a, b = (down - height // 2) / unit, (across - width // 2) / unit
    shares = torch.stack([(1 + b) / 2, (a - b) / 2, (1 - a) / 2])
    moved = torch.einsum("kbhw,bkc->bchw", shares, shifts)
    return _sampled(x, down + moved[:, 0], across + moved[:, 1])


def pixelate(x: Tensor, _streams: Streams, share: float) -> Tensor:
    """Shrink to a share of the size by averaging, and enlarge by repeating pixels."""
    height, width = (max(int(share * n), 1) for n in x.shape[2:])
    shrunk = _boxes(x.shape[2], height, x) @ x @ _boxes(x.shape[3], width, x).T
    return F.interpolate(shrunk, size=x.shape[2:], mode="nearest-exact").clamp(0, 1)


def jpeg_compression(x: Tensor, _streams: Streams, quality: float) -> Tensor:
    """Store as JPEG and read back; images of other than 1 or 3 channels are stored as grey ones."""
    pixels = (255 * x).round().to(torch.uint8).cpu()
    colours = 3 if x.shape[1] == 3 else 1
    mode = ImageReadMode.RGB if colours == 3 else ImageReadMode.GRAY
    pictures = pixels.view(-1, colours, *x.shape[2:])
    files = [encode_jpeg(picture, quality=round(quality)) for picture in pictures]
    decoded = torch.empty_like(pictures)
    for picture, file in zip(decoded, files, strict=True):
        picture.copy_(decode_jpeg(file, mode=mode))
    return decoded.view_as(pixels).to(x) / 255


def _sampled(x: Tensor, down: Tensor, across: Tensor) -> Tensor:
    """The image at rows and columns (B, H, W), bilinearly; it is mirrored beyond its border."""
    height, width = x.shape[2:]
    grid = torch.stack([(2 * across + 1) / width - 1, (2 * down + 1) / height - 1], dim=3)
    return F.grid_sample(x, grid, padding_mode="reflection", align_corners=False).clamp(0, 1)


def _boxes(given: int, wanted: int, like: Tensor) -> Tensor:
    """Weights (wanted, given): each new pixel is the mean of those whose centres it covers."""
    scale = given / wanted
    old, new = torch.arange(given) + 0.5, (torch.arange(wanted) + 0.5) * scale
    distance = (old - new[:, None]) / scale
    covered = ((distance > -0.5) & (distance <= 0.5)).to(like)
    return covered / covered.sum(1, keepdim=True)


DIGITAL = {
    "contrast": Family(
        contrast,
        small=((0.75,), (0.5,), (0.4,), (0.3,), (0.15,)),
        large=((0.4,), (0.3,), (0.2,), (0.1,), (0.05,)),
    ),
    "elastic_transform": Family(
        elastic_transform,
        # Ours: the published constants move pixels less at higher severities.
        small=(
            (0.04, 0.06, 0.02),
            (0.06, 0.05, 0.03),
            (0.08, 0.04, 0.04),
            (0.1, 0.04, 0.05),
            (0.1, 0.03, 0.06),
        ),
        large=(
            (0.03, 0.01, 0.01),
            (0.04, 0.01, 0.015),
            (0.05, 0.01, 0.02),
            (0.07, 0.01, 0.03),
            (0.12, 0.01, 0.04),
        ),
    ),
    "pixelate": Family(
        pixelate,
        small=((0.95,), (0.9,), (0.85,), (0.75,), (0.65,)),
        large=((0.6,), (0.5,), (0.4,), (0.3,), (0.25,)),
    ),
    "jpeg_compression": Family(
        jpeg_compression,
        small=((80,), (65,), (58,), (50,), (40,)),
        large=((25,), (18,), (15,), (10,), (7,)),
    ),
}
