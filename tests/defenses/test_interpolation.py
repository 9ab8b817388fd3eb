"""The dial as a defense: the most robust stop among those that cost little enough accuracy."""

import pytest
import torch

from defenses import DEFENSES
from defenses.declaration import declaration
from defenses.dial import between
from defenses.interpolation import _mixed, interpolation
from defenses.n_fgsm import n_fgsm
from defenses.scores import clean_accuracy
from defenses.standard import standard
from defenses.training import Loop
from hardening.deployment.export import export
from hardening.deployment.twin import Twin
from hardening.errors import BrokenPromise, ConfigError
from hardening.log import Silent
from hardening.spec import Spec, bind, resolve

LOOP = Loop(epochs=2, batch_size=32)


@pytest.fixture
def trained(model, data, generator):
    return standard(model, data, generator(), Silent(), loop=Loop(epochs=4))


def test_it_lies_between_the_given_weights_and_those_of_the_training(
    trained, data, threat, generator, recorder, bits
):
    mixed = interpolation(trained, data, threat, generator(), recorder, drop=0.5, loop=LOOP)
    after = n_fgsm(trained, data, threat, generator(), Silent(), loop=LOOP)

    assert recorder.lines[-1].startswith("interpolation chose ")
    share = float(recorder.lines[-1].split()[2].rstrip("%")) / 100
    assert bits(mixed) == bits(between(trained, after, share))


def test_the_most_robust_stop_above_the_floor_is_chosen(trained, data, generator, recorder):
    """Robust accuracy need not rise all the way: here it is best half-way."""
    after = n_fgsm(trained, data, *_threat_and(generator), Silent(), loop=LOOP)
    halfway = between(trained, after, 0.5).state_dict()

    def robust(model, _):
        distance = sum(
            float((a.float() - b.float()).norm())
            for a, b in zip(model.state_dict().values(), halfway.values(), strict=True)
        )
        return 1 / (1 + distance)

    found = _mixed(trained, after, data.validation, robust, 1.0, recorder)

    assert all(
        torch.equal(a, b)
        for a, b in zip(found.state_dict().values(), halfway.values(), strict=True)
    )
    assert "interpolation chose 50% of the way" in recorder.lines[-1]
    assert len(recorder.lines) == 11


def _threat_and(generator):
    from hardening.threat import ThreatModel

    return ThreatModel(norm="linf", eps=0.05), generator()


def test_no_stop_that_costs_too_much_is_taken(trained, data, make_model, recorder):
    before = clean_accuracy(trained, data.validation)
    assert before > 0.9
    elsewhere = make_model()  # untrained: every stop far from the given weights is worse

    with pytest.raises(BrokenPromise, match=r"interpolation: got a clean .* of at most .* allow a"):
        _mixed(trained, _ruined(elsewhere), data.validation, lambda *_: 1.0, 0.0, recorder)


def _ruined(model):
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(1e3)
    return model.eval()


def test_a_file_is_dialled_too(trained, data, threat, generator):
    file = Twin(export(trained, (1, 8, 8)))

    mixed = interpolation(file, data, threat, generator(), Silent(), drop=0.5, loop=LOOP)

    assert isinstance(mixed, Twin)
    assert mixed.data != file.data


def test_only_what_trains_from_the_given_weights_can_be_dialled():
    with pytest.raises(ConfigError, match=r"interpolation\.of"):
        bind(DEFENSES, Spec(name="interpolation", params={"of": "quantization"}))


def test_its_cost_is_that_of_the_training():
    passes = declaration(interpolation).passes

    assert passes(resolve(interpolation, {"of": "n_fgsm", "epochs": 3})) == 6
    assert passes(resolve(interpolation, {"of": "trades", "epochs": 3})) == 27
