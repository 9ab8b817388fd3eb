"""G1 to G4: one image, one answer, made of logits."""

import pytest
import torch
from torch import nn

from hardening.data import Labelled


@pytest.fixture
def images():
    x = torch.rand(40, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    return Labelled(x, (x.flatten(1).mean(1) > 0.5).long())


def linear(x):
    t = 10 * (x.flatten(1).mean(1) - 0.5)
    return torch.stack([-t, t], 1)


def test_a_model_with_one_answer_is_quiet(images, examine):
    found = examine(linear, images, gates=("G1", "G2", "G3", "G4"))
    assert not any(alarm.fired for alarm in found.values())
    assert found["G1"].value == found["G3"].value == 0


def test_dropout_that_is_left_on(images, examine):
    model = nn.Sequential(nn.Flatten(), nn.Dropout(0.2), nn.Linear(16, 3))
    assert examine(model.train(), images, gates=["G1"])["G1"].fired
    assert not examine(model.eval(), images, gates=["G1"])["G1"].fired


def test_an_accuracy_that_flickers_by_the_last_bit(images, examine):
    """Logits agree to a millionth and still a label changes: near ties, decided by luck."""
    calls = []

    def flickering(x):
        calls.append(1)
        tie = torch.tensor([1.0, 1.0 + 1e-6 * (-1) ** len(calls)])
        return tie.expand(len(x), 2)

    alarm = examine(flickering, images, gates=["G1"])["G1"]
    assert alarm.value < alarm.limit
    assert alarm.fired


def test_a_buffer_that_is_not_a_number_has_not_changed(images, examine):
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
    model.register_buffer("unused", torch.tensor([float("nan")]))
    assert examine(model, images, gates=["G2"])["G2"].value == 0


def test_every_changed_tensor_of_the_state_counts(images, examine):
    model = nn.Sequential(nn.BatchNorm2d(1), nn.Flatten(), nn.Linear(16, 2)).train()
    alarm = examine(model, images, gates=["G2"])["G2"]
    assert alarm.value == 3  # mean, variance and the count of batches
    assert "running_mean" in alarm.detail


def test_what_is_no_module_has_no_state_to_change(images, examine):
    alarm = examine(linear, images, gates=["G2"])["G2"]
    assert alarm.value is None
    assert not alarm.fired


def test_neighbours_that_decide_about_an_image(images, examine):
    def coupled(x):
        return linear(x) - linear(x).mean(0)

    assert examine(coupled, images, gates=["G3"])["G3"].fired


@pytest.mark.parametrize("count", [1, 2, 8])
def test_neighbours_are_noticed_in_the_smallest_sample(count, images, examine):
    def coupled(x):
        return linear(x) + x.std()

    found = examine(coupled, images.first(count), gates=["G3"])["G3"]
    assert (found.fired, found.images) == (True, count)


@pytest.mark.parametrize("scale", [1e-6, 1, 1e6])
@pytest.mark.parametrize(("size", "fires"), [(1e-6, False), (1e-2, True)], ids=["bits", "much"])
def test_a_dependence_is_measured_against_the_logits(size, fires, scale, images, examine):
    """A matrix product rounds differently for eight rows and for forty: that is none."""

    def coupled(x):
        return scale * (linear(x) + size * len(x) / 40)

    assert examine(coupled, images, gates=["G3"])["G3"].fired == fires


def test_a_softmax(images, examine):
    assert examine(lambda x: linear(x).softmax(1), images, gates=["G4"])["G4"].fired
    assert examine(lambda x: linear(x).softmax(1) + 1e-6, images, gates=["G4"])["G4"].fired


@pytest.mark.parametrize("outputs", [[0.2, 0.3], [1.5, -0.5]])
def test_logits_that_look_a_little_like_probabilities(outputs, images, examine):
    model = torch.tensor(outputs)
    assert not examine(lambda x: model.expand(len(x), 2), images, gates=["G4"])["G4"].fired
