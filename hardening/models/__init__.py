"""Networks by name: each maps normalised images (B, C, H, W) to logits (B, K)."""

from collections.abc import Callable

from torch import nn

from hardening.models.preact_resnet18 import preact_resnet18
from hardening.models.resnet20 import resnet20
from hardening.models.small_cnn import small_cnn
from hardening.models.torchvision import torchvision
from hardening.models.wide_resnet import wide_resnet

Network = Callable[..., nn.Module]
"""`network(shape, classes, /, *, hyperparameters)`; shape is (C, H, W)."""

MODELS: dict[str, Network] = {
    "small_cnn": small_cnn,
    "resnet20": resnet20,
    "preact_resnet18": preact_resnet18,
    "wide_resnet": wide_resnet,
    "torchvision": torchvision,
}
