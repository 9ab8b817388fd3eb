"""ResNet-20 for 32x32 images, He et al. 2015, https://arxiv.org/abs/1512.03385 (section 4.2).

Shapes: B images, C channels, H x W pixels, K classes.
"""

from torch import Tensor, nn
from torch.nn import functional as F


def resnet20(shape: tuple[int, int, int], classes: int, /) -> nn.Module:
    """Three stages of three blocks, 16, 32 and 64 channels, shortcuts without parameters."""
    return ResNet20(shape[0], classes)


class ResNet20(nn.Module):
    """Its parameters carry the names that published CIFAR-10 weights use."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = _stage(16, 16, stride=1)
        self.layer2 = _stage(16, 32, stride=2)
        self.layer3 = _stage(32, 64, stride=2)
        self.linear = nn.Linear(64, classes)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Normalised images (B, C, H, W) to logits (B, K)."""
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        logits: Tensor = self.linear(x.mean((2, 3)))
        return logits


class Block(nn.Module):
    """Two convolutions around an option-A shortcut: every second pixel, new channels zero."""

    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, out, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out)
        self.conv2 = nn.Conv2d(out, out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)
        self.relu = nn.ReLU()
        self.stride = stride
        self.added = out - channels

    def forward(self, x: Tensor) -> Tensor:
        """Features (B, C, H, W) to (B, out, H / stride, W / stride)."""
        residual = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        if self.added:
            below = self.added // 2
            x = x[:, :, :: self.stride, :: self.stride]
            x = F.pad(x, (0, 0, 0, 0, below, self.added - below))
        activated: Tensor = self.relu(residual + x)
        return activated


def _stage(channels: int, out: int, *, stride: int) -> nn.Sequential:
    return nn.Sequential(Block(channels, out, stride), Block(out, out, 1), Block(out, out, 1))
