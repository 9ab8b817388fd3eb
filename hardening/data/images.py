"""From an image file to pixels, without trusting the file.

Shapes: C channels (1 or 3), S x S pixels.
"""

import struct
import warnings
import zlib
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from hardening.errors import DataError

Channels = Literal[1, 3]

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".ppm", ".pgm", ".webp"}
FORMATS = ("PNG", "JPEG", "BMP", "PPM", "WEBP")

EIGHT_BITS = {"1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr"}
"""Pillow's modes of at most 8 bits a channel; it would clip the others instead of scaling them."""

BROKEN = (
    *(OSError, ValueError, SyntaxError, LookupError, EOFError, MemoryError, struct.error),
    *(zlib.error, Image.DecompressionBombError, Image.DecompressionBombWarning),
)
"""What Pillow's decoders raise on damaged files."""


def read_image(path: Path, size: int, channels: Channels) -> Tensor:
    """The file's pixels as (C, S, S) uint8.

    Raises:
        DataError: The file is broken, of another format than its suffix may be, has more than
            8 bits per channel, or claims more pixels than Pillow's limit.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # remarks on harmless metadata
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=FORMATS) as image:
                mode = image.mode
                if mode in EIGHT_BITS:
                    return pixels(image, size, channels)
    except BROKEN as error:
        raise DataError(f"{path}: cannot be read as an image: {error}") from error
    raise DataError(f"{path}: got pixels of mode {mode!r}, expected 8 bits per channel")


def pixels(image: Image.Image, size: int, channels: Channels) -> Tensor:
    """Convert and resize (bilinear, antialiased, aspect ratio not kept) to (C, S, S) uint8."""
    image = image.convert("L" if channels == 1 else "RGB")
    if image.size != (size, size):
        image = image.resize((size, size), Image.Resampling.BILINEAR)
    array = np.array(image, dtype=np.uint8).reshape(size, size, channels)
    return torch.from_numpy(array).permute(2, 0, 1)
