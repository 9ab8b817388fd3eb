"""Hardening hardens: on a real data set, against an attack that no defense trains with."""

import pytest
import torch
from sklearn.datasets import load_digits

from attacks.pgd import pgd
from defenses import DEFENSES
from defenses.scores import clean_accuracy
from defenses.standard import standard
from defenses.training import Loop
from hardening.data import Labelled, TrainingData
from hardening.log import Silent
from hardening.models.architecture import Architecture, build
from hardening.threat import ThreatModel

THREAT = ThreatModel(norm="linf", eps=0.15)


@pytest.fixture(scope="module")
def digits():
    source = load_digits()
    images = torch.from_numpy(source.images / 16 * 255).to(torch.uint8)[:, None]
    everything = Labelled(images, torch.from_numpy(source.target))
    order = torch.randperm(len(everything), generator=torch.Generator().manual_seed(0))
    parts = [everything.take(part) for part in order.split((1000, 200, 597))]
    data = TrainingData(parts[0], parts[1], tuple("0123456789"))
    return data, parts[2].take(torch.arange(300))


@pytest.fixture(scope="module")
def control(digits):
    architecture = Architecture(
        name="small_cnn", params={"width": 16}, shape=(1, 8, 8), classes=10, mean=(0.3,), std=(0.4,)
    )
    return standard(
        build(architecture, seed=0),
        digits[0],
        torch.Generator().manual_seed(0),
        Silent(),
        loop=Loop(epochs=8),
    )


def robust(model, held_out):
    x, y = held_out.floats(), held_out.labels
    x_adv = pgd(model, x, y, THREAT, torch.Generator().manual_seed(0), steps=40).x_adv
    return float((model(x_adv).argmax(1) == y).float().mean())


def test_plain_training_is_accurate_and_not_robust(digits, control):
    assert clean_accuracy(control, digits[1]) > 0.97
    assert robust(control, digits[1]) < 0.45


@pytest.mark.parametrize(
    "name",
    [
        "adversarial_training",
        "trades",
        "n_fgsm",
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in ("mart", "rs_fgsm", "fast_bat", "helper", "compactness")
        ),
    ],
)
def test_hardening_buys_much_robustness_for_little_accuracy(name, digits, control):
    data, held_out = digits

    hardened = DEFENSES[name](
        control, data, THREAT, torch.Generator().manual_seed(1), Silent(), loop=Loop(epochs=6)
    )

    assert robust(hardened, held_out) > robust(control, held_out) + 0.25
    assert clean_accuracy(hardened, held_out) > 0.93
