"""The models of the attack benchmark: a module for the peers, the same weights as ONNX for us."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
import torch
from onnx.numpy_helper import to_array
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

from defenses import DEFENSES
from hardening.data import Labelled, TrainingData
from hardening.deployment.export import export
from hardening.log import Silent
from hardening.models import files
from hardening.models.architecture import Architecture, Classifier, build
from hardening.models.weights import load_weights, read_state
from hardening.spec import Spec, bind
from hardening.threat import ThreatModel

KEPT = Path(".temper") / "bench"
"""Where the hardened model stays between runs: its training takes minutes."""


class Subject(NamedTuple):
    """A model with the images it is attacked on."""

    module: nn.Module
    file: bytes
    images: Labelled
    threat: ThreatModel


def load(name: str, images: int) -> Subject:
    """One of `SUBJECTS`, with its first `images` test images."""
    module, data, threat = SUBJECTS[name]()
    module = module.eval()
    part = data.first(images)
    return Subject(module, export(module, tuple(part.images.shape[1:])), part, threat)


def _undefended() -> tuple[nn.Module, Labelled, ThreatModel]:
    data, classes = _npz("cifar10", "test"), 10
    architecture = Architecture(
        name="resnet20",
        shape=(3, 32, 32),
        classes=classes,
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
    )
    model = build(architecture, 0)
    weights = (_data() / "weights" / "resnet20.pt").read_bytes()
    model = load_weights(model, read_state(weights, "resnet20.pt"), "resnet20.pt")
    return model, data, ThreatModel(norm="linf", eps=4 / 255)


def _hardened() -> tuple[nn.Module, Labelled, ThreatModel]:
    """ResNet-20 after 8 epochs of n_fgsm at 8/255 on 9,000 images; attacked at 4/255."""
    start, data, threat = _undefended()
    kept = KEPT / "hardened.safetensors"
    if not kept.exists():
        train = _npz("cifar10", "train")
        split = TrainingData(
            train.take(torch.arange(9000)),
            train.take(torch.arange(9000, len(train))),
            tuple(str(label) for label in range(10)),
        )
        spec = Spec(name="n_fgsm", params={"epochs": 8, "augment": "shift-flip"})
        rng = torch.Generator().manual_seed(0)
        model = bind(DEFENSES, spec)(start, split, threat.scaled(2), rng, Silent())
        assert isinstance(model, Classifier)
        KEPT.mkdir(parents=True, exist_ok=True)
        kept.write_bytes(files.save(model))
    return files.load(kept.read_bytes()), data, threat


def _mnist() -> tuple[nn.Module, Labelled, ThreatModel]:
    """The provably trained net of Wong and Kolter (2018), https://arxiv.org/abs/1711.00851."""
    model = nn.Sequential(
        *(nn.Conv2d(1, 16, 4, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 4, 2, 1), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(1568, 100), nn.ReLU(), nn.Linear(100, 10)),
    )
    weights = (_data() / "weights" / "wk17_mnist.pt").read_bytes()
    model.load_state_dict(read_state(weights, "wk17_mnist.pt"))
    return model, _npz("mnist", "test"), ThreatModel(norm="linf", eps=0.1)


class _Resnet2b(nn.Module):
    """The residual net `resnet_2b` of VNN-COMP 2021, from the weights of its ONNX file."""

    def __init__(self, weights: dict[str, Tensor]) -> None:
        super().__init__()
        self.weights = nn.ParameterDict({key.replace(".", "/"): w for key, w in weights.items()})
        self.register_buffer("mean", torch.tensor([0.4914, 0.4822, 0.4465])[:, None, None])
        self.register_buffer("std", torch.tensor([0.2471, 0.2435, 0.2616])[:, None, None])

    def forward(self, x: Tensor) -> Tensor:
        h = self._conv("conv1", (x - self.mean) / self.std, 2).relu()
        inner = self._conv("layer1/0/conv1", h, 2).relu()
        inner = self._conv("layer1/0/conv2", inner, 1)
        h = (inner + self._conv("layer1/0/shortcut/0", h, 2, 0)).relu()
        inner = self._conv("layer1/1/conv1", h, 1).relu()
        h = (self._conv("layer1/1/conv2", inner, 1) + h).relu()
        return self._linear("linear2", self._linear("linear1", h.flatten(1)).relu())

    def _conv(self, name: str, x: Tensor, stride: int, padding: int = 1) -> Tensor:
        weight, bias = self.weights[f"{name}/weight"], self.weights[f"{name}/bias"]
        return F.conv2d(x, weight, bias, stride, padding)

    def _linear(self, name: str, x: Tensor) -> Tensor:
        return F.linear(x, self.weights[f"{name}/weight"], self.weights[f"{name}/bias"])


def _resnet_2b() -> tuple[nn.Module, Labelled, ThreatModel]:
    graph = onnx.load(_data() / "weights" / "resnet_2b.onnx").graph
    weights = {w.name: torch.from_numpy(to_array(w).copy()) for w in graph.initializer}
    return _Resnet2b(weights), _npz("cifar10", "test"), ThreatModel(norm="linf", eps=2 / 255)


def _digits() -> tuple[nn.Module, Labelled, ThreatModel]:
    """A small CNN, adversarially trained on scikit-learn's digits in about half a minute."""
    data, threat = load_digits(), ThreatModel(norm="linf", eps=0.15)
    x = torch.from_numpy(data.images).float()[:, None] / 16
    x = F.interpolate(x, scale_factor=2, mode="bilinear").clamp(0, 1)
    mixed = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    everything = Labelled(x[mixed], torch.from_numpy(data.target)[mixed])
    test, train = everything.take(torch.arange(500)), everything.take(torch.arange(500, 1697))
    split = TrainingData(
        train, everything.take(torch.arange(1697, len(x))), tuple(str(k) for k in range(10))
    )
    architecture = Architecture(
        name="small_cnn", shape=(1, 16, 16), classes=10, mean=(0.0,), std=(1.0,)
    )
    spec = Spec(name="adversarial_training", params={"epochs": 15, "learning_rate": 0.005})
    rng = torch.Generator().manual_seed(0)
    model = bind(DEFENSES, spec)(build(architecture, 0), split, threat, rng, Silent())
    return model, test, threat


def _npz(name: str, part: str) -> Labelled:
    with np.load(_data() / f"{name}.npz") as arrays:
        images: Tensor = torch.from_numpy(arrays[f"{part}_images"])
        labels = torch.from_numpy(arrays[f"{part}_labels"]).long()
    images = images[:, None] if images.ndim == 3 else images.permute(0, 3, 1, 2)
    return Labelled(images.contiguous(), labels)


def _data() -> Path:
    return Path(os.environ["TEMPER_DATA"])


SUBJECTS: dict[str, Callable[[], tuple[nn.Module, Labelled, ThreatModel]]] = {
    "hardened": _hardened,
    "undefended": _undefended,
    "mnist": _mnist,
    "resnet_2b": _resnet_2b,
    "digits": _digits,
}
