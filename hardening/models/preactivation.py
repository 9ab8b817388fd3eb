"""The pre-activation residual block, He et al. 2016, https://arxiv.org/abs/1603.05027.

Shapes: B images, C channels, H x W pixels.
"""

from torch import Tensor, nn


class PreactivationBlock(nn.Module):
    """Normalise, rectify, convolve, twice; a 1x1 convolution where the shape changes."""

    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv1 = nn.Conv2d(channels, out, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)
        self.conv2 = nn.Conv2d(out, out, 3, padding=1, bias=False)
        self.relu = nn.ReLU()
        self.shortcut = (
            nn.Identity()
            if stride == 1 and channels == out
            else nn.Conv2d(channels, out, 1, stride, bias=False)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Features (B, C, H, W) to (B, out, H / stride, W / stride)."""
        active = self.relu(self.bn1(x))
        # Where the shape stays, the shortcut carries the input itself, not its activation.
        kept = x if isinstance(self.shortcut, nn.Identity) else self.shortcut(active)
        residual: Tensor = self.conv2(self.relu(self.bn2(self.conv1(active))))
        return residual + kept


class PreactivationNetwork(nn.Module):
    """One convolution, stages of blocks, a last activation, the mean over pixels, a linear layer.

    `widths` are the channels of the stages, the first of which keeps the resolution and the others
    of which halve it; `blocks` is how many blocks a stage has.
    """

    def __init__(
        self, channels: int, classes: int, *, stem: int, widths: tuple[int, ...], blocks: int
    ) -> None:
        super().__init__()
        self.stem = nn.Conv2d(channels, stem, 3, padding=1, bias=False)
        stages: list[nn.Module] = []
        before = stem
        for index, out in enumerate(widths):
            first = PreactivationBlock(before, out, 1 if index == 0 else 2)
            rest = [PreactivationBlock(out, out, 1) for _ in range(blocks - 1)]
            stages.append(nn.Sequential(first, *rest))
            before = out
        self.stages = nn.Sequential(*stages)
        self.bn = nn.BatchNorm2d(before)
        self.linear = nn.Linear(before, classes)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Normalised images (B, C, H, W) to logits (B, K)."""
        x = self.relu(self.bn(self.stages(self.stem(x))))
        logits: Tensor = self.linear(x.mean((2, 3)))
        return logits
