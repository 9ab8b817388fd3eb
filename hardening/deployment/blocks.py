"""ONNX Runtime's product of images and 4-bit weights (MatMulNBits): images in 8 bits, too.

Shapes: R rows of n numbers, O outputs.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hardening.deployment.operators.straight_through import pass_through

BLOCK = 32
"""Numbers of a row that share a scale, where the file does not say."""


class BlockProduct(nn.Module):
    """x W + b, with every block of a row of x rounded to 8 bits of its own scale.

    The rounding is what makes it differ from a float product; sums of float32 differ in the last
    bits.
    """

    def __init__(self, block: int) -> None:
        super().__init__()
        self.block = block

    def forward(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """Floats (R, n), dequantized weights (n, O) and biases (O,) in, floats (R, O) out."""
        product = pass_through(x, self._rounded(x.detach())) @ weight
        return product if bias is None else product + bias

    def _rounded(self, x: Tensor) -> Tensor:
        count = x.shape[-1]
        blocks = F.pad(x, [0, -count % self.block]).unflatten(-1, (-1, self.block))
        scale = blocks.abs().amax(-1, keepdim=True) / 127
        inverse = torch.where(scale > 0, 1 / scale, 0)
        rounded: Tensor = (blocks * inverse).round() * scale
        return rounded.flatten(-2)[..., :count]
