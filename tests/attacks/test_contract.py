"""What every attack owes its caller. A new attack is tested by being registered."""

import random

import numpy as np
import pytest
import torch
from torch import nn

from attacks import ATTACKS
from hardening.errors import ModelError, NumericsError
from hardening.spec import Spec, bind, parameters
from hardening.threat import ThreatModel

EPS = {"linf": 0.015, "l2": 0.12}
ROW = 3 * 6 * 6

CHEAPER = {"square": {"queries": 60}, "apgd": {"steps": 40}}
attacks = {name: bind(ATTACKS, Spec(name=name, params=CHEAPER.get(name, {}))) for name in ATTACKS}
gradient_attacks = {name: attack for name, attack in attacks.items() if name != "square"}
each_attack = pytest.mark.parametrize("attack", attacks.values(), ids=attacks)
each_gradient_attack = pytest.mark.parametrize(
    "attack", gradient_attacks.values(), ids=gradient_attacks
)


@pytest.fixture
def threat(norm):
    return ThreatModel(norm=norm, eps=EPS[norm])


@pytest.fixture
def model(curved):
    return curved(ROW, 5).eval()


@pytest.fixture
def batch(model):
    return draw(model)


def draw(model):
    x = torch.rand(24, 3, 6, 6, generator=seeded(1))
    return x, model(x).detach().argmax(1)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@each_attack
def test_breaks_some_images_and_not_others(attack, model, batch, threat):
    """Keeps the tests below honest: both fates occur in their batch."""
    x, y = batch
    broken = model(attack(model, x, y, threat, seeded())).argmax(1) != y
    assert 3 <= int(broken.sum()) <= 21


@each_attack
@pytest.mark.parametrize("eps", ["8/255", 0.001, 0.3, 3.0])
def test_stays_in_the_threat_model_bit_for_bit(attack, eps, norm, model, images):
    x = (images(model, 12, 3, 6, 6)[0] * 255).round() / 255
    threat = ThreatModel(norm=norm, eps=eps)
    x_adv = attack(model, x, model(x).argmax(1), threat, seeded())
    assert threat.contains(x, x_adv).all()
    assert x_adv.shape == x.shape
    assert x_adv.dtype == x.dtype
    assert not x_adv.requires_grad


@each_attack
def test_same_seed_same_bits(attack, model, batch, threat):
    first, second = (attack(model, *batch, threat, seeded(4)) for _ in range(2))
    assert torch.equal(first, second)


@pytest.mark.parametrize("name", [name for name in ATTACKS if name != "fgsm"])
def test_another_seed_searches_elsewhere(name, model, batch, threat):
    first, second = (attacks[name](model, *batch, threat, seeded(seed)) for seed in (1, 2))
    assert not torch.equal(first, second)


@each_attack
def test_a_misclassified_image_is_returned_as_it_is(attack, model, batch, threat):
    x, y = batch
    wrong = torch.arange(len(y)) % 3 == 0
    y = torch.where(wrong, (y + 1) % 5, y)
    x_adv = attack(model, x, y, threat, seeded())
    assert torch.equal(x_adv[wrong], x[wrong])
    assert not torch.equal(x_adv[~wrong], x[~wrong])


@each_attack
@pytest.mark.parametrize(("size", "scale"), [(1, 1.0), (5, 1.0), (5, 5.0)])
def test_an_image_fares_the_same_in_any_batch(attack, size, scale, curved, norm):
    """No mean loss, no batch-wide norm, no shared random numbers, no shared stop."""
    model, threat = curved(ROW, 5, scale), ThreatModel(norm=norm, eps=EPS[norm])
    x, y = draw(model)
    alone = attack(model, x[:size], y[:size], threat, seeded())
    among_others = attack(model, x, y, threat, seeded())[:size]
    others = torch.cat([x[:size], x[size:].flip(0)]), torch.cat([y[:size], y[size:].flip(0)])
    assert torch.equal(alone, among_others)
    assert torch.equal(alone, attack(model, *others, threat, seeded())[:size])


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


@each_attack
def test_memory_format_changes_nothing(attack, model, batch, threat):
    x, y = batch
    x_adv = attack(model, x.contiguous(memory_format=torch.channels_last), y, threat, seeded())
    assert torch.equal(x_adv, attack(model, x, y, threat, seeded()))


@each_attack
def test_works_where_gradients_are_switched_off(attack, model, batch, threat):
    expected = attack(model, *batch, threat, seeded())
    with torch.no_grad():
        assert torch.equal(attack(model, *batch, threat, seeded()), expected)
        assert not torch.is_grad_enabled()


@each_attack
def test_inputs_that_require_gradients_get_none(attack, model, batch, threat):
    x = batch[0].clone().requires_grad_()
    x_adv = attack(model, x, batch[1], threat, seeded())
    assert not x_adv.requires_grad
    assert x.grad is None


@each_attack
def test_an_empty_batch_comes_back_empty(attack, model, threat):
    x = torch.zeros(0, 3, 6, 6)
    assert attack(model, x, torch.zeros(0, dtype=torch.long), threat, seeded()).shape == x.shape


@each_attack
@pytest.mark.parametrize("classes", [2, 3, 10])
def test_any_number_of_classes_from_two_on(attack, classes, curved, images, threat):
    model = curved(ROW, classes)
    x, y = images(model, 12, 3, 6, 6)
    big = threat.scaled(3)
    assert (model(attack(model, x, y, big, seeded())).argmax(1) != y).any()


@each_attack
def test_flat_models_give_finite_images(attack, batch, threat):
    x, y = batch[0], torch.zeros(24, dtype=torch.long)

    def flat(x):
        return torch.tensor([1.0, 0.0, 0.0]) + 0 * x.flatten(1).sum(1, keepdim=True)

    assert threat.contains(x, attack(flat, x, y, threat, seeded())).all()


@each_attack
@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_logits_that_are_not_finite_end_the_attack(attack, poison, model, batch, threat):
    def poisoned(x):
        logits = model(x)
        return torch.where(torch.arange(len(x))[:, None] == 2, poison, logits)

    with pytest.raises(NumericsError, match=r"1 of 24"):
        attack(poisoned, *batch, threat, seeded())


@each_gradient_attack
def test_gradients_that_are_not_finite_end_the_attack(attack, model, batch, threat):
    def kinked(x):
        return model(x) + (x - x).flatten(1).sum(1, keepdim=True).sqrt()

    with pytest.raises(NumericsError, match="gradient"):
        attack(kinked, *batch, threat, seeded())


@each_gradient_attack
def test_a_model_without_gradients_is_refused_in_one_line(attack, model, batch, threat):
    with pytest.raises(ModelError, match="expected a differentiable model") as caught:
        attack(lambda x: model(x).detach(), *batch, threat, seeded())
    assert "\n" not in str(caught.value)


@each_attack
def test_outputs_that_are_no_logits_are_refused(attack, model, batch, threat):
    with pytest.raises(ModelError, match=r"\(24, 1\).*expected \(24, K\)"):
        attack(lambda x: model(x)[:, :1], *batch, threat, seeded())


@pytest.mark.parametrize("name", ATTACKS)
def test_every_hyper_parameter_is_explained(name):
    assert all(parameter.meaning for parameter in parameters(ATTACKS[name]))


@pytest.mark.parametrize("name", ATTACKS)
def test_a_bound_attack_is_the_function_with_its_defaults(name, model, batch):
    threat, few = ThreatModel(norm="linf", eps=EPS["linf"]), slice(4)
    x, y = batch[0][few], batch[1][few]
    bound = bind(ATTACKS, Spec(name=name))
    expected = ATTACKS[name](model, x, y, threat, seeded())
    assert torch.equal(bound(model, x, y, threat, seeded()), expected)
