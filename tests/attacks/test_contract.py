"""What every attack owes its caller. A new attack is tested by being registered."""

import random

import numpy as np
import pytest
import torch
from torch import nn

from attacks.registry import ATTACKS
from hardening.attack import Found, facts
from hardening.errors import ModelError, NumericsError
from hardening.spec import Spec, bind, parameters
from hardening.threat import ThreatModel

EPS = {"linf": 0.015, "l2": 0.12, "l1": 0.5, "l0": 1}
ROW = 3 * 6 * 6

CHEAPER = {
    "apgd": {"steps": 20},
    "pgd": {"steps": 20},
    "diva": {"steps": 20},
    "universal": {"passes": 3},
    "square": {"queries": 40},
    "ddn": {"steps": 30},
    "fmn": {"steps": 20},
    "cw": {"steps": 30, "searches": 3, "rate": 0.05, "first_weight": 1.0},
    "deepfool": {"steps": 20},
    "lbfgs": {"steps": 3, "searches": 2, "first_weight": 1.0},
    "fab": {"steps": 10, "targets": 2},
    "spsa": {"steps": 10, "samples": 16},
    "hopskipjump": {"queries": 100, "probes": 20},
    "noise": {"draws": 40},
    "substitute": {"seeds": 20, "rounds": 2, "queries": 100, "steps": 10},
}
"""Enough to break some images of the batch below: the promises do not depend on the effort."""

attacks = {name: bind(ATTACKS, Spec(name=name, params=CHEAPER.get(name, {}))) for name in ATTACKS}
geometries = [(name, norm) for name in attacks for norm in facts(attacks[name]).norms]
first_norms = [(name, facts(attacks[name]).norms[0]) for name in attacks]
led_by_gradients = [pair for pair in first_norms if facts(attacks[pair[0]]).access == "gradients"]
alone = [pair for pair in geometries if not facts(attacks[pair[0]]).whole]


def each(pairs):
    return pytest.mark.parametrize(
        ("attack", "threat"),
        [(attacks[name], ThreatModel(norm=norm, eps=EPS[norm])) for name, norm in pairs],
        ids=[f"{name}-{norm}" for name, norm in pairs],
    )


each_geometry = each(geometries)
each_attack = each(first_norms)
each_gradient_attack = each(led_by_gradients)


@pytest.fixture
def model(curved):
    return curved(ROW, 5).eval()


@pytest.fixture
def batch(model):
    return draw(model)


def draw(model, count=24):
    x = torch.rand(24, 3, 6, 6, generator=seeded(1))
    return x[:count], model(x).detach().argmax(1)[:count]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def same(first: Found, second: Found) -> bool:
    return torch.equal(first.x_adv, second.x_adv) and torch.equal(first.step, second.step)


@each_geometry
def test_breaks_some_images_and_not_others(attack, threat, model, batch):
    """Keeps the tests below honest: both fates occur in their batch. Noise may break none."""
    x, y = batch
    broken = int((model(attack(model, x, y, threat, seeded()).x_adv).argmax(1) != y).sum())
    assert (0 if facts(attack).access == "nothing" else 2) <= broken <= 22


@each_geometry
@pytest.mark.parametrize("factor", [0.1, 2.1, 40])
def test_stays_in_the_threat_model_bit_for_bit(attack, threat, factor, model, images):
    x = (images(model, 8, 3, 6, 6)[0] * 255).round() / 255
    threat = threat.scaled(factor)
    x_adv = attack(model, x, model(x).argmax(1), threat, seeded()).x_adv
    assert threat.contains(x, x_adv).all()
    assert x_adv.shape == x.shape
    assert x_adv.dtype == x.dtype
    assert not x_adv.requires_grad


@each_geometry
def test_a_step_is_told_exactly_for_those_that_fell(attack, threat, model, batch):
    x, y = batch
    y = torch.where(torch.arange(24) % 6 == 0, (y + 1) % 5, y)
    x_adv, step = attack(model, x, y, threat, seeded())
    falls = model(x_adv).argmax(1) != y
    wrong = model(x).argmax(1) != y
    assert step.dtype == torch.int64
    assert torch.equal(step == 0, wrong)
    assert torch.equal(step > 0, falls & ~wrong)
    assert torch.equal(step == -1, ~falls)


@each_geometry
def test_same_seed_same_bits(attack, threat, model):
    first, second = (attack(model, *draw(model, 8), threat, seeded(4)) for _ in range(2))
    assert same(first, second)


@each_attack
def test_a_misclassified_image_is_returned_as_it_is(attack, threat, model, batch):
    x, y = batch
    wrong = torch.arange(len(y)) % 3 == 0
    y = torch.where(wrong, (y + 1) % 5, y)
    x_adv, step = attack(model, x, y, threat, seeded())
    assert torch.equal(x_adv[wrong], x[wrong])
    assert (step[wrong] == 0).all()
    if facts(attack).access != "nothing":
        assert not torch.equal(x_adv[~wrong], x[~wrong])


@each_attack
def test_images_that_are_all_misclassified_come_back_as_they_are(attack, threat, model, batch):
    x, y = batch
    x_adv, step = attack(model, x, (y + 1) % 5, threat, seeded())
    assert torch.equal(x_adv, x)
    assert (step == 0).all()


@each(alone)
@pytest.mark.parametrize(("size", "scale"), [(1, 1.0), (5, 5.0)])
def test_an_image_fares_the_same_in_any_batch(attack, threat, size, scale, curved):
    """No mean loss, no batch-wide norm, no shared random numbers, no shared stop."""
    model = curved(ROW, 5, scale)
    x, y = draw(model, 12)
    alone = attack(model, x[:size], y[:size], threat, seeded())
    among_others = attack(model, x, y, threat, seeded())
    others = torch.cat([x[:size], x[size:].flip(0)]), torch.cat([y[:size], y[size:].flip(0)])
    among_turned = attack(model, *others, threat, seeded())
    for batch in (among_others, among_turned):
        assert torch.equal(alone.x_adv, batch.x_adv[:size])
        assert torch.equal(alone.step, batch.step[:size])


@each_attack
def test_leaves_model_inputs_and_global_randomness_alone(attack, threat, images):
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(), nn.Flatten(), nn.Linear(64, 4)
    model = nn.Sequential(*layers).eval()
    model[4].train()
    x, y = images(model, 6, 3, 6, 6)
    kept = x.clone(), y.clone(), {k: v.clone() for k, v in model.state_dict().items()}
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()  # noqa: NPY002
    attack(model, x, y, threat, seeded())
    assert torch.equal(x, kept[0])
    assert torch.equal(y, kept[1])
    assert all(torch.equal(v, kept[2][k]) for k, v in model.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert [m.training for m in model] == [False, False, False, False, True]
    assert not x.requires_grad
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]
    assert (np.random.get_state()[1] == states[2]).all()  # noqa: NPY002


@each_geometry
def test_memory_format_changes_nothing(attack, threat, model):
    x, y = draw(model, 8)
    found = attack(model, x.contiguous(memory_format=torch.channels_last), y, threat, seeded())
    assert same(found, attack(model, x, y, threat, seeded()))


@each_attack
def test_works_where_gradients_are_switched_off(attack, threat, model):
    batch = draw(model, 6)
    expected = attack(model, *batch, threat, seeded())
    with torch.no_grad():
        assert same(attack(model, *batch, threat, seeded()), expected)
        assert not torch.is_grad_enabled()
    assert torch.is_grad_enabled()


@each_attack
def test_inputs_that_require_gradients_get_none(attack, threat, model):
    x, y = draw(model, 6)
    x = x.clone().requires_grad_()
    x_adv = attack(model, x, y, threat, seeded()).x_adv
    assert not x_adv.requires_grad
    assert x.grad is None


@each_attack
def test_an_empty_batch_comes_back_empty(attack, threat, model):
    x = torch.zeros(0, 3, 6, 6)
    x_adv, step = attack(model, x, torch.zeros(0, dtype=torch.long), threat, seeded())
    assert x_adv.shape == x.shape
    assert step.shape == (0,)


@each_attack
@pytest.mark.parametrize("classes", [2, 3, 5, 10])
def test_any_number_of_classes_from_two_on(attack, threat, classes, curved, images):
    model = curved(ROW, classes)
    x, y = images(model, 10, 3, 6, 6)
    x_adv = attack(model, x, y, threat.scaled(4), seeded()).x_adv
    assert threat.scaled(4).contains(x, x_adv).all()
    if facts(attack).access != "nothing":
        assert (model(x_adv).argmax(1) != y).any()


@each_attack
def test_flat_models_give_finite_images_that_stand(attack, threat, batch):
    x, y = batch[0][:6], torch.zeros(6, dtype=torch.long)

    def flat(x):
        return torch.tensor([1.0, 0.0, 0.0]) + 0 * x.flatten(1).sum(1, keepdim=True)

    x_adv, step = attack(flat, x, y, threat, seeded())
    assert threat.contains(x, x_adv).all()
    assert (step == -1).all()


@each_attack
@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_logits_that_are_not_finite_end_the_attack(attack, threat, poison, model, batch):
    def poisoned(x):
        logits = model(x)
        return torch.where(torch.arange(len(x))[:, None] == 2, poison, logits)

    with pytest.raises(NumericsError, match=r"1 of 24"):
        attack(poisoned, *batch, threat, seeded())


@each_gradient_attack
def test_gradients_that_are_not_finite_end_the_attack(attack, threat, model, batch):
    def kinked(x):
        return model(x) + (x - x).flatten(1).sum(1, keepdim=True).sqrt()

    with pytest.raises(NumericsError, match="gradient"):
        attack(kinked, *batch, threat, seeded())


@each_gradient_attack
def test_a_model_without_gradients_is_refused_in_one_line(attack, threat, model, batch):
    with pytest.raises(ModelError, match="expected a differentiable model") as caught:
        attack(lambda x: model(x).detach(), *batch, threat, seeded())
    assert "\n" not in str(caught.value)


@each_attack
def test_outputs_that_are_no_logits_are_refused(attack, threat, model, batch):
    with pytest.raises(ModelError, match=r"\(24, 1\).*expected \(24, K\)"):
        attack(lambda x: model(x)[:, :1], *batch, threat, seeded())


@pytest.mark.parametrize("name", ATTACKS)
def test_every_hyper_parameter_is_explained(name):
    assert all(parameter.meaning for parameter in parameters(ATTACKS[name]))


@each_attack
def test_a_bound_attack_is_the_function_with_its_defaults(attack, threat, model):
    """Whatever a configuration leaves out is the signature's default; what it says reaches it."""
    name = attack.func.__name__
    assert attack.keywords.keys() >= CHEAPER.get(name, {}).keys()
    x, y = draw(model, 3)
    by_hand = ATTACKS[name](model, x, y, threat, seeded(), **CHEAPER.get(name, {}))
    assert same(attack(model, x, y, threat, seeded()), by_hand)
