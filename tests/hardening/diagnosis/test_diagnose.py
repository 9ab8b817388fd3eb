"""What holds for every gate: the choice of gates, refusals, repeatability, no side effects."""

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from hardening.diagnosis import DIAGNOSED, GATES, Limits
from hardening.diagnosis.catalogue import alarm, counted, sampled
from hardening.errors import ConfigError


def test_gates_come_in_the_catalogues_order_and_only_those_asked_for(written, examine):
    found = examine(written.model, written.images(8), gates=("G15", "G1", "G7"))
    assert list(found) == ["G1", "G7", "G15"]
    assert list(DIAGNOSED) == [gate.number for gate in GATES.values() if gate.number in DIAGNOSED]


def test_an_unknown_gate_is_refused_by_name(written, examine):
    with pytest.raises(ConfigError, match="gates: unknown name 'G99'"):
        examine(written.model, written.images(8), gates=["G99"])


@pytest.mark.parametrize(("n", "shape"), [(0, (0,)), (4, (3,)), (4, (4, 1))])
def test_a_sample_and_its_survivors_must_fit(n, shape, written, examine):
    survivors = torch.ones(shape, dtype=torch.bool)
    with pytest.raises(ValueError, match=f"got {n} images"):
        examine(written.model, written.images(n), survivors, ["G1"])


def test_the_same_seed_gives_the_same_alarms(zoo, attacked, examine):
    gates = ("G5", "G6", "G7", "G14")
    first, second = (examine(zoo("std"), attacked(12), gates=gates, seed=3) for _ in range(2))
    assert first == second


def test_a_diagnosis_leaves_model_images_and_global_randomness_alone(
    attacked, examine, monkeypatch
):
    monkeypatch.setattr("hardening.diagnosis.backdoor.STEPS", 3)
    monkeypatch.setattr("hardening.diagnosis.backdoor.LEAST", 1)
    layers = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Dropout(), nn.Flatten(), nn.Linear(784, 10)
    model = nn.Sequential(*layers).eval()
    model[4].train()
    images = attacked(8)
    state = {key: value.clone() for key, value in model.state_dict().items()}
    kept, numbers = images.images.clone(), torch.get_rng_state()
    examine(model, images, gates=[gate for gate in DIAGNOSED if gate not in ("G15", "G17")])
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert [module.training for module in model] == [False, False, False, False, True]
    assert torch.equal(images.images, kept)
    assert torch.equal(torch.get_rng_state(), numbers)


def test_integer_images_are_diagnosed_as_what_they_stand_for(zoo, attacked, examine):
    images = attacked(8)
    stored = type(images)((images.images * 255).round().byte(), images.labels)
    floats = type(images)(stored.images.float() / 255, images.labels)
    gates = ("G1", "G5", "G6", "G8")
    assert examine(zoo("std"), stored, gates=gates) == examine(zoo("std"), floats, gates=gates)


def test_every_gate_has_a_limit_a_meaning_and_an_advice():
    assert set(GATES) == set(Limits.model_fields)
    assert {f"G{number}" for number in range(1, 20)} <= {gate.number for gate in GATES.values()}
    assert all(gate.name and gate.meaning and gate.advice for gate in GATES.values())
    assert len({gate.name for gate in GATES.values()}) == len(GATES)


def test_a_limit_below_zero_is_refused():
    with pytest.raises(ValidationError):
        Limits(transfer=-0.1)


def test_nothing_measured_never_fires():
    assert not alarm("losses", None, 8, Limits()).fired


@pytest.mark.parametrize(
    ("found", "n", "fires"),
    [(1, 128, False), (2, 128, True), (1, 500, False), (2, 500, True), (2, 1000, False)],
)
def test_one_image_is_luck_and_two_are_not_unless_the_limit_allows_them(found, n, fires):
    assert counted("gradient_free", found, n, Limits()).fired == fires


def test_a_sample_of_one_image_says_nothing_about_a_share():
    assert not sampled("convergence", 0, 1, Limits()).fired
    assert sampled("convergence", 1, 1, Limits()).value == 1
