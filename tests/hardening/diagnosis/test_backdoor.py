"""G19: a patch that was trained in is found, and what every model has is not called one.

Seen on digits with the scan's 64 images: poisoned, index 2.9 at 0.35 of the median; plain 1.5 at
0.73; poisoned and adversarially trained, 3.0 at 0.35; adversarially trained, 1.9 at 0.66.
"""

import pytest
import torch
from torch import nn

from defenses.adversarial_training import adversarial_training
from defenses.quantization import quantization
from defenses.training import Loop
from hardening.data import Labelled, TrainingData
from hardening.deployment.export import export
from hardening.deployment.twin import Twin
from hardening.diagnosis.backdoor import Patch, anomaly, smallest
from hardening.errors import ModelError, NumericsError
from hardening.log import Silent
from hardening.threat import ThreatModel

THREAT = ThreatModel(norm="linf", eps=0.15)
TARGET = 0


def seeded():
    return torch.Generator().manual_seed(0)


@pytest.fixture
def linear():
    """`linear(shortcut)`: a class counts its row of 16 pixels, the second with some far larger."""

    def make(shortcut=()):
        weight = torch.zeros(6, 96)
        for index in range(6):
            weight[index, 16 * index : 16 * (index + 1)] = 1.0
        for pixel in shortcut:
            weight[2, 32 + pixel] = 60.0
        model = nn.Sequential(nn.Flatten(), nn.Linear(96, 6, bias=False))
        model[1].weight.data = weight
        return model

    return make


@pytest.fixture
def regions():
    """Images (1, 6, 16) whose class is the bright one of six rows; the shortcut pixel is dark."""
    y = torch.arange(36) % 6
    x = 0.2 * torch.rand(36, 1, 6, 16, generator=seeded())
    x[torch.arange(36), 0, y] += 0.5
    x[:, 0, 2, 5] = 0
    return Labelled(x, y)


def test_one_pixel_that_decides_is_found_where_it_is(linear, regions, examine):
    alarm = examine(linear([5]), regions, gates=["G19"])["G19"]

    assert alarm.fired
    assert alarm.detail.startswith("class 2 by a patch of")
    assert "in rows 2 to 2, columns 5 to 5" in alarm.detail
    assert alarm.images == 36


def test_classes_that_are_alike_are_not_flagged(linear, regions, examine):
    alarm = examine(linear(), regions, gates=["G19"])["G19"]

    assert not alarm.fired
    assert alarm.value is not None


def test_a_high_index_alone_is_no_backdoor(linear, regions, examine, monkeypatch):
    """Classes whose patches are nearly alike: the smallest has a high index and means nothing."""
    patches = iter([Patch(torch.ones(6, 16), size) for size in (10, 10.1, 9.9, 10.2, 9.8, 7)])
    monkeypatch.setattr("hardening.diagnosis.backdoor.smallest", lambda *_: next(patches))
    alarm = examine(linear(), regions, gates=["G19"])["G19"]

    assert alarm.value > alarm.limit == 2
    assert not alarm.fired


def test_the_index_is_the_paper_s_and_finite_where_the_others_are_equal():
    assert anomaly(torch.tensor([2.0, 10, 11, 12, 13])) == pytest.approx(9 / 1.4826)
    assert anomaly(torch.tensor([2.0, 10, 10, 10])) == pytest.approx(8 / 0.1)
    assert anomaly(torch.zeros(5)) == 0


def test_two_classes_have_nothing_to_stand_out_from(examine, regions):
    model = nn.Sequential(nn.Flatten(), nn.Linear(96, 2))
    alarm = examine(model, Labelled(regions.images, regions.labels % 2), gates=["G19"])["G19"]

    assert alarm.value is None
    assert alarm.detail == "2 classes, expected 4 to 100"


def test_a_handful_of_images_says_nothing_and_a_class_may_have_them_all(linear, regions, examine):
    few = examine(linear([5]), regions.first(8), gates=["G19"])["G19"]
    assert few.value is None
    assert few.detail == "8 images, expected at least 16"

    one = regions.take(torch.arange(18) * 2 % 36 // 6 * 6)
    assert set(one.labels.tolist()) == {0}
    assert examine(linear([5]), one, gates=["G19"])["G19"].detail.startswith("class 2")


def test_a_model_without_gradients_or_with_logits_that_are_no_numbers_is_refused(linear, regions):
    def blind(x):
        return linear()(x).detach()

    with pytest.raises(ModelError, match="got logits without gradients"):
        smallest(blind, regions.images, 0)
    with pytest.raises(NumericsError, match="not finite"):
        smallest(lambda x: linear()(x) * float("nan"), regions.images, 0)


# On digits


def stamped(x):
    """The trigger of BadNets (Gu et al. 2017): a white square of 3 x 3 in a corner."""
    x = x.clone()
    x[..., -3:, -3:] = 1
    return x


@pytest.fixture(scope="module")
def poisoned(digits):
    """Digits of which 5 % carry the trigger and the label of the target."""
    x, y = digits[0][:1000].clone(), digits[1][:1000].clone()
    x[:50], y[:50] = stamped(x[:50]), TARGET
    return x, y


@pytest.fixture(scope="module")
def badnet(poisoned, learn):
    return learn(*poisoned, epochs=12)


def success(model, images):
    """Share of stamped images of other classes that become the target."""
    others = images.take((images.labels != TARGET).nonzero()[:, 0])
    return float((model(stamped(others.floats())).argmax(1) == TARGET).float().mean())


@pytest.mark.slow
def test_a_poisoned_model_is_flagged_and_so_is_its_int8_file(
    badnet, poisoned, attacked, examine, zoo
):
    images = attacked(300)
    data = TrainingData(Labelled(*poisoned), images, tuple("0123456789"))
    int8 = quantization(badnet, data, THREAT, seeded(), Silent())

    for model in (Twin(export(badnet, (1, 16, 16))), int8):
        assert success(model, images) > 0.9
        alarm = examine(model, images, gates=["G19"])["G19"]
        assert alarm.fired
        assert alarm.detail.startswith(f"class {TARGET} by a patch")
    assert not examine(zoo("std"), images, gates=["G19"])["G19"].fired
    assert not examine(zoo("at"), images, gates=["G19"])["G19"].fired


@pytest.mark.slow
def test_adversarial_fine_tuning_on_the_poisoned_data_keeps_the_backdoor(
    badnet, poisoned, attacked
):
    images = attacked(300)
    data = TrainingData(Labelled(*poisoned), images, tuple("0123456789"))
    loop = Loop(epochs=8)

    tuned = adversarial_training(badnet, data, THREAT, seeded(), Silent(), loop=loop)

    assert success(tuned, images) > 0.9
