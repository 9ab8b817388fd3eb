import re

import pytest
import torch

from defenses import DEFENSES
from defenses.declaration import declaration
from defenses.half_precision import half_precision
from defenses.quantization import quantization
from defenses.standard import standard
from hardening.deployment.session import Session
from hardening.deployment.twin import Twin
from hardening.errors import ConfigError, ModelError
from hardening.log import Silent
from hardening.spec import Spec, bind


class Lines(Silent):
    def __init__(self):
        self.lines = []

    def line(self, text):
        self.lines.append(text)


def test_gives_the_twin_of_an_int8_file_that_decides_like_the_model(model, data, threat, generator):
    twin = quantization(model.eval(), data, threat, generator(), Silent())
    x = data.validation.floats()

    assert isinstance(twin, Twin)
    session = Session(twin.data)
    assert session.facts().precision == "int8"
    assert torch.equal(session(x), twin(x))
    assert (model(x).argmax(1) == twin(x).argmax(1)).float().mean() > 0.9


@pytest.mark.parametrize("bits", [4, 3])
def test_few_bits_make_a_smaller_file_that_decides_like_the_model(
    bits, model, data, threat, generator
):
    """Of a trained model: of an untrained one with margins near zero nothing could be asked."""
    trained = standard(model, data, generator(), Silent())
    twin = quantization(trained, data, threat, generator(), Silent(), bits=bits)
    x = data.validation.floats()

    session = Session(twin.data)
    assert session.facts().precision == "int4"
    assert torch.allclose(session(x), twin(x), atol=1e-5)
    assert (trained(x).argmax(1) == twin(x).argmax(1)).float().mean() > 0.9


def test_float16_decides_like_the_model(model, data, threat, generator):
    twin = half_precision(model.eval(), data, threat, generator(), Silent())
    x = data.validation.floats()

    session = Session(twin.data)
    assert session.facts().precision == "float16"
    assert torch.allclose(session(x), model(x), atol=1e-2)
    assert torch.allclose(session(x), twin(x), atol=1e-5)


def test_a_model_in_training_mode_is_taken_as_it_would_be_deployed(model, data, threat, generator):
    deployed = quantization(model.eval(), data, threat, generator(), Silent())
    training = quantization(model.train(), data, threat, generator(), Silent())

    assert training.data == deployed.data
    assert model.training


def test_the_threat_model_and_the_seed_choose_the_calibration(model, data, threat, generator):
    def file(threat=threat, seed=0, **params):
        return quantization(model, data, threat, generator(seed), Silent(), **params).data

    reference = file(calibration_images=20)

    assert file(calibration_images=20) == reference
    assert file(calibration_images=20, seed=1) != reference
    assert file(calibration_images=20, threat=threat.scaled(4)) != reference
    assert file(calibration_images=20, method="percentile") != reference


def test_more_images_than_there_are_means_all_of_them(model, data, threat, generator):
    log = Lines()

    quantization(model, data, threat, generator(), log, calibration_images=100_000)

    assert re.fullmatch(r"quantized on 256 images: [\d,]+ -> [\d,]+ bytes", *log.lines)


def test_a_quantized_model_is_not_quantized_again(model, data, threat, generator):
    twin = quantization(model, data, threat, generator(), Silent(), calibration_images=8)

    with pytest.raises(ModelError, match="is quantized already"):
        quantization(twin, data, threat, generator(), Silent())


def test_a_float_file_is_quantized_through_its_twin(model, data, threat, generator):
    from hardening.deployment.export import export

    file = Twin(export(model.eval(), (1, 8, 8)))

    from_file = quantization(file, data, threat, generator(), Silent(), calibration_images=20)

    assert Session(from_file.data).facts().precision == "int8"


def test_declares_the_attacks_that_are_due():
    due = ("straight-through", "transfer", "differential", "gradient-free")
    assert declaration(quantization).due == due
    assert declaration(quantization).status == "AT-BASED"


@pytest.mark.parametrize(
    "params", [{"bits": 2}, {"calibration_images": 1}, {"method": "guess"}], ids=str
)
def test_other_settings_are_refused(params):
    with pytest.raises(ConfigError, match=f"quantization.{next(iter(params))}"):
        bind(DEFENSES, Spec(name="quantization", params=params))
