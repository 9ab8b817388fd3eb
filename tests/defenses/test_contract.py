"""What every defense owes its caller. A new defense is tested by being registered."""

import inspect
from typing import get_args, get_type_hints

import pytest
import torch
from torch import nn

from defenses import DEFENSES
from defenses.declaration import Status, declaration
from hardening.data import Labelled, TrainingData
from hardening.evidence import Kind
from hardening.log import Silent
from hardening.spec import Spec, bind, parameters, resolve
from hardening.threat import ThreatModel

TRAINED = [name for name in DEFENSES if "epochs" in {p.name for p in parameters(DEFENSES[name])}]

FROM_SCRATCH = {"quantization_aware": {"learning_rate": 5e-3, "rounds": 1, "epochs": 3}}
"""Fine-tuning has gentler defaults, which in one epoch teach an untrained model nothing."""

LEAST = {"steps": 2, "members": 2, "sources": 1}
"""What an option that costs most need not exceed here."""

each_defense = pytest.mark.parametrize("name", list(DEFENSES))
each_trained = pytest.mark.parametrize("name", TRAINED)
each_norm = pytest.mark.parametrize(
    "threat", [ThreatModel(norm="linf", eps=0.05), ThreatModel(norm="l2", eps=0.3)], ids=str
)


def short(name, **params):
    """The defense with as little work as it can be given."""
    known = {p.name for p in parameters(DEFENSES[name])}
    params = {option: least for option, least in LEAST.items() if option in known} | params
    if name == "auto":
        params = {"multiples": 24} | params
    if name in TRAINED:
        params = {"epochs": 1, "batch_size": 32} | FROM_SCRATCH.get(name, {}) | params
    return bind(DEFENSES, Spec(name=name, params=params))


@each_defense
@each_norm
def test_returns_a_new_model_and_leaves_the_given_one_alone(
    name, threat, model, data, generator, bits
):
    before = bits(model)

    hardened = short(name)(model, data, threat, generator(), Silent())

    assert isinstance(hardened, nn.Module)
    assert hardened is not model
    assert bits(model) == before
    memory = {p.data_ptr() for p in model.parameters()}
    assert memory.isdisjoint(p.data_ptr() for p in hardened.parameters())


@each_trained
def test_a_trained_model_comes_in_eval_mode_with_weights_that_can_be_trained_on(
    name, model, data, threat, generator
):
    hardened = short(name)(model, data, threat, generator(), Silent())

    assert not any(module.training for module in hardened.modules())
    assert all(parameter.requires_grad for parameter in hardened.parameters())


@each_defense
def test_leaves_data_and_global_randomness_alone(name, model, data, threat, generator):
    kept = [t.clone() for part in (data.train, data.validation) for t in (part.images, part.labels)]
    state = torch.get_rng_state()

    short(name)(model, data, threat, generator(), Silent())

    assert torch.equal(torch.get_rng_state(), state)
    now = [t for part in (data.train, data.validation) for t in (part.images, part.labels)]
    assert all(torch.equal(a, b) for a, b in zip(kept, now, strict=True))


@each_defense
def test_the_same_seed_gives_the_same_bits(name, model, data, threat, generator, bits):
    first = short(name)(model, data, threat, generator(4), Silent())
    torch.rand(5)
    second = short(name)(model, data, threat, generator(4), Silent())

    assert bits(first) == bits(second)


@each_trained
def test_another_seed_gives_another_model(name, model, data, threat, generator, bits):
    first = short(name)(model, data, threat, generator(4), Silent())
    second = short(name)(model, data, threat, generator(5), Silent())

    assert bits(first) != bits(second)


@each_defense
@pytest.mark.parametrize(("classes", "shape"), [(2, (3, 8, 8)), (10, (1, 16, 12))])
def test_any_number_of_classes_and_any_image_size(
    name, classes, shape, make_model, make_data, threat, generator
):
    data = make_data(classes, train=400, shape=shape)
    # From an untrained model a minute budget may end in collapse, which is an error of its own.
    params = {"epochs": 4, "batch_size": 25} if name in TRAINED else {}

    hardened = short(name, **params)(
        make_model(classes, shape), data, threat, generator(), Silent()
    )

    assert hardened(data.validation.floats()[:5]).shape == (5, classes)


@pytest.mark.parametrize("name", [name for name in TRAINED if name != "interpolation"])
def test_weights_learn_from_the_training_images_alone(
    name, model, data, threat, generator, bits, make_data
):
    """With one epoch validation has nothing to choose: other images, the same weights."""
    others = make_data(validation=60).validation
    other = TrainingData(
        data.train, Labelled(others.images.flip(0), others.labels.flip(0)), data.classes
    )

    first = short(name)(model, data, threat, generator(), Silent())
    second = short(name)(model, other, threat, generator(), Silent())

    assert bits(first) == bits(second)


@each_defense
def test_takes_training_data_and_no_test_data(name):
    hints = get_type_hints(DEFENSES[name])
    given = [p.name for p in inspect.signature(DEFENSES[name]).parameters.values()][:5]

    assert given == ["model", "data", "threat", "rng", "log"]
    assert hints["data"] is TrainingData


@each_defense
def test_declares_how_it_is_to_be_attacked(name):
    declared = declaration(DEFENSES[name])

    assert declared.mechanism
    assert declared.due
    assert set(declared.due) <= set(get_args(Kind))
    assert declared.status in get_args(Status)
    assert declared.passes(resolve(DEFENSES[name], {})) >= 0


@each_defense
def test_every_hyper_parameter_has_a_meaning(name):
    assert [p.name for p in parameters(DEFENSES[name]) if not p.meaning] == []


@each_trained
def test_options_of_the_loop_lie_beside_the_defense_s_own(name):
    bound = resolve(DEFENSES[name], {"epochs": 3, "learning_rate": 0.25})

    assert bound["loop"].epochs == 3
    assert bound["loop"].learning_rate == 0.25
