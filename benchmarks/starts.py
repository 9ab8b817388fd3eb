"""Where the contestants of `benchmarks.training` start: weights, images, what is asked of them."""

import os
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from defenses.augment import Augmentation
from defenses.loop import Loop
from defenses.standard import standard
from hardening.data import Labelled, TrainingData
from hardening.data.npz import npz
from hardening.data.split import choose, split
from hardening.log import Silent
from hardening.models.architecture import Architecture, Classifier, build
from hardening.models.weights import load_weights, read_state
from hardening.threat import ThreatModel


class Task(NamedTuple):
    """Where everybody starts, and what is asked of them."""

    start: nn.Module
    data: TrainingData
    test: Labelled
    threat: ThreatModel
    augment: Augmentation
    rate: float


def fresh_rng() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def _cifar10() -> Task:
    data, test = _data("cifar10", "")
    architecture = Architecture(
        name="resnet20",
        shape=(3, 32, 32),
        classes=10,
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
    )
    weights = (Path(os.environ["TEMPER_DATA"]) / "weights" / "resnet20.pt").read_bytes()
    model = load_weights(build(architecture, 0), read_state(weights, "weights"), "weights")
    return Task(model, data, test, ThreatModel(norm="linf", eps=8 / 255), "shift-flip", 0.05)


def _mnist() -> Task:
    data, test = _data("mnist", "")
    start = _control(data, 1, "none")
    return Task(start, data, test, ThreatModel(norm="linf", eps=0.3), "none", 0.05)


def _gtsrb() -> Task:
    data, test = _data("gtsrb32", "train_labels+train_track")
    start = _control(data, 15, "shift")
    return Task(start, data, test, ThreatModel(norm="linf", eps=8 / 255), "shift", 0.05)


TASKS = {"cifar10": _cifar10, "mnist": _mnist, "gtsrb": _gtsrb}


def _control(data: TrainingData, epochs: int, augment: Augmentation) -> Classifier:
    channels, height, width = data.train.images.shape[1:]
    architecture = Architecture(
        name="small_cnn",
        params={"width": 16},
        shape=(channels, height, width),
        classes=len(data.classes),
        mean=(0.5,) * channels,
        std=(0.25,) * channels,
    )
    loop = Loop(epochs=epochs, augment=augment)
    model = standard(build(architecture, 0), data, fresh_rng(), Silent(), loop=loop)
    assert isinstance(model, Classifier)
    return model


def _data(name: str, groups: str) -> tuple[TrainingData, Labelled]:
    raw = npz(Path(os.environ["TEMPER_DATA"]) / f"{name}.npz", groups=groups)
    training, held_out = split(raw, validation=0.1, test=0.3, seed=0)
    most = min(500, len(held_out.test))
    return training, held_out.test.take(choose(held_out, most, 0))
