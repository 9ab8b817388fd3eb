"""Smooth activations: every ReLU goes, nothing else comes, and what cannot be done is said."""

import pytest
import torch
from torch import nn

from attacks.pgd import pgd
from defenses import DEFENSES, FORMS
from defenses.declaration import declaration
from defenses.smooth_activation import ACTIVATIONS, smooth_activation
from defenses.standard import standard
from defenses.training import Loop
from hardening.deployment.export import export
from hardening.deployment.parity import prove
from hardening.deployment.session import Session
from hardening.deployment.twin import Twin
from hardening.errors import ModelError
from hardening.log import Silent
from hardening.models import files
from hardening.models.architecture import Architecture, build
from hardening.threat import ThreatModel

RGB = (3, 32, 32)
OURS = {
    "small_cnn": {"width": 2},
    "resnet20": {},
    "preact_resnet18": {"width": 2},
    "wide_resnet": {"depth": 10, "width": 1},
    "torchvision": {"architecture": "resnet18", "stem": "small"},
}


@pytest.fixture
def pictures(make_data):
    return make_data(train=4, validation=4, shape=RGB)


@pytest.fixture
def smooth(threat, generator):
    def replace(model, data, **params):
        return smooth_activation(model, data, threat, generator(), Silent(), **params)

    return replace


def network(name, params):
    return build(
        Architecture(
            name=name, params=params, shape=RGB, classes=3, mean=(0.5,) * 3, std=(0.25,) * 3
        ),
        seed=0,
    )


def size(model):
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("name", OURS)
def test_no_relu_is_left_of_any_architecture_and_no_parameter_is_added(name, smooth, pictures):
    model = network(name, OURS[name])

    made = smooth(model, pictures, activation="softplus")

    relus = sum(isinstance(module, nn.ReLU) for module in model.modules())
    assert relus > 0  # and the given model has kept its own
    assert not any(isinstance(module, nn.ReLU) for module in made.modules())
    assert size(made) == size(model)
    x = pictures.train.floats()
    assert not torch.allclose(made(x), model.eval()(x))
    assert torch.equal(files.load(files.save(made), forms=FORMS)(x), made(x))


@pytest.mark.parametrize(
    ("activation", "at_one"),
    [("silu", 0.7310586), ("gelu", 0.8413447), ("softplus", 1.0000045), ("elu", 1.0)],
)
def test_activations_are_those_of_the_paper_and_have_no_parameters(activation, at_one):
    made = ACTIVATIONS[activation]()

    assert float(made(torch.tensor(1.0))) == pytest.approx(at_one, abs=1e-6)
    assert not [*made.parameters()]


@pytest.mark.parametrize(
    "activation",
    ["softplus", *(pytest.param(name, marks=pytest.mark.slow) for name in ("silu", "gelu", "elu"))],
)
def test_the_file_computes_what_the_module_computes(activation, model, data, smooth):
    made = smooth(model, data, activation=activation)
    x = 4 * data.validation.floats() - 2  # far on both sides of zero

    session = Session(export(made, (1, 8, 8)))

    prove("file", made, session, x)
    prove("twin", session, Twin(session.data), x)
    assert "Relu" not in session.facts().operators


def test_adversarial_training_follows_in_the_chain(model, data, smooth, threat, generator):
    made = smooth(model, data)

    trained = DEFENSES["adversarial_training"](
        made, data, threat, generator(), Silent(), steps=2, loop=Loop(epochs=1, batch_size=32)
    )

    assert trained.spec == made.spec
    loaded = files.load(files.save(trained), forms=FORMS)
    x = data.validation.floats()
    assert torch.equal(loaded(x), trained(x))
    assert not any(isinstance(module, nn.ReLU) for module in loaded.modules())


def test_alone_it_says_that_it_is_no_defense_and_is_none(model, data, smooth, generator):
    threat = ThreatModel(eps=0.3)
    trained = standard(
        smooth(model, data), data, generator(), Silent(), loop=Loop(epochs=3, batch_size=32)
    )
    x, y = data.validation.floats(), data.validation.labels

    x_adv = pgd(trained, x, y, threat, generator(), steps=20).x_adv

    assert (trained(x).argmax(1) == y).float().mean() > 0.9
    assert (trained(x_adv).argmax(1) == y).float().mean() < 0.1
    assert declaration(smooth_activation).status == "NO DEFENSE"


@pytest.mark.parametrize(
    ("architecture", "problem"),
    [
        ("mobilenet_v2", "got a model without ReLU"),  # it has ReLU6
        ("densenet121", "got 1 ReLUs inside the model's code"),
    ],
)
def test_what_cannot_be_replaced_is_refused(architecture, problem, smooth, pictures):
    model = network("torchvision", {"architecture": architecture})

    with pytest.raises(ModelError, match=f"^smooth_activation: {problem}.*adversarial_training"):
        smooth(model, pictures)


def test_an_onnx_file_is_refused(foreign, data, smooth):
    with pytest.raises(ModelError, match=r"^smooth_activation: got an ONNX file, expected an arch"):
        smooth(Twin(foreign()), data)
