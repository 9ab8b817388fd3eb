"""JPEG and bit depth inside the graph: real codecs' numbers, one function in every form."""

import io

import numpy as np
import onnx
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from attacks.pgd import pgd
from defenses import DEFENSES, FORMS
from defenses.bit_depth import Squeeze, bit_depth
from defenses.jpeg import Codec, jpeg, quantization_tables
from defenses.n_fgsm import n_fgsm
from defenses.standard import standard
from defenses.training import Loop
from hardening.deployment.contract import Contract, contract_of, with_contract
from hardening.deployment.export import export
from hardening.deployment.parity import prove
from hardening.deployment.session import Session
from hardening.deployment.twin import Twin
from hardening.errors import ModelError
from hardening.log import Silent
from hardening.models import files
from hardening.threat import ThreatModel


def pictures(shape, count=3):
    """Smooth images in 256 levels, as photographs are."""
    coarse = torch.rand(count, shape[0], 4, 4, generator=torch.Generator().manual_seed(0))
    x = F.interpolate(coarse, shape[1:], mode="bicubic").clamp(0, 1)
    return (x * 255).round() / 255


def coded(image, quality):
    """What libjpeg makes of (C, H, W) in [0, 1], in levels; colours not subsampled."""
    levels = (image * 255).round().byte().permute(1, 2, 0).numpy()
    file = io.BytesIO()
    picture = Image.fromarray(levels[..., 0] if len(image) == 1 else levels)
    picture.save(file, "JPEG", quality=quality, subsampling=0)
    decoded = np.array(Image.open(file))
    return torch.from_numpy(decoded).reshape(*image.shape[1:], len(image)).permute(2, 0, 1)


@pytest.mark.parametrize("quality", [10, 50, 75, 95, 100])
@pytest.mark.parametrize("shape", [(1, 16, 16), (3, 32, 32), (3, 19, 13), (1, 28, 28)], ids=str)
def test_the_codec_is_libjpeg_s_within_a_few_levels(shape, quality):
    x = pictures(shape)

    ours = Codec(quality)(x) * 255
    theirs = torch.stack([coded(image, quality) for image in x])

    assert (ours - theirs).abs().mean() < 0.5
    assert (ours - theirs).abs().max() <= 12


@pytest.mark.parametrize("quality", [1, 30, 49, 50, 75, 100])
def test_the_tables_are_those_of_libjpeg(quality):
    file = io.BytesIO()
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(file, "JPEG", quality=quality)
    theirs = Image.open(file).quantization

    ours = quantization_tables(quality).flatten(1).long().tolist()

    assert ours == [list(theirs[0]), list(theirs[1])]


@pytest.mark.parametrize("channels", [1, 3])
def test_what_is_constant_stays_at_quality_100_for_nothing_is_cut_off(channels):
    grey = torch.arange(256).view(-1, 1, 1, 1).expand(-1, channels, 8, 8) / 255

    assert (Codec(100)(grey) - grey).abs().max() < 1 / 255 + 1e-6


def test_bit_depth_rounds_to_the_nearest_level():
    x = torch.tensor([0.0, 0.1, 0.2, 0.4, 0.6, 0.9, 1.0]).view(1, 1, 1, 7)

    thirds = Squeeze(2)(x).flatten() * 3

    assert thirds.tolist() == pytest.approx([0, 0, 1, 1, 2, 3, 3])
    assert torch.equal(Squeeze(1)(x).flatten(), torch.tensor([0.0, 0, 0, 0, 1, 1, 1]))


@pytest.mark.parametrize("name", ["jpeg", "bit_depth"])
def test_module_file_and_twin_are_one_function_and_the_twin_alone_has_gradients(
    name, make_model, make_data, threat, generator
):
    shape = (3, 12, 10)
    data = make_data(shape=shape)
    form = DEFENSES[name](make_model(shape=shape), data, threat, generator(), Silent())
    x = torch.cat([data.validation.floats(), torch.rand(60, *shape, generator=generator())])

    session = Session(export(form, shape))
    twin = Twin(session.data)

    prove("file", form, session, x)
    prove("twin", session, twin, x)
    assert torch.equal(files.load(files.save(form), forms=FORMS)(x), form(x))
    assert (session.facts().rounds, session.facts().gradients) == (True, "bpda")
    hidden, passed = (gradient(model, x[60:]) for model in (form, twin))
    assert not hidden.any()
    assert passed.flatten(1).any(1).all()


def gradient(model, x):
    x = x.clone().requires_grad_()
    (found,) = torch.autograd.grad(model(x).square().sum(), x)
    return found


def test_gradients_of_the_twin_are_the_model_s_at_the_coded_image(model, data, threat, generator):
    form = jpeg(model, data, threat, generator(), Silent())
    twin = Twin(export(form, (1, 8, 8)))
    x = 0.4 + 0.2 * torch.rand(20, 1, 8, 8, generator=generator())

    wanted = gradient(model.eval(), Codec(75)(x))

    assert torch.allclose(gradient(twin, x), wanted, atol=1e-5 * float(wanted.abs().max()))


def test_a_users_file_gets_it_in_its_own_graph_and_is_fed_as_before(
    foreign, make_data, threat, generator
):
    fields = {"layout": "NHWC", "range": "0..255", "mean": [100.0] * 3, "std": [50.0] * 3}
    shape = (3, 12, 10)
    theirs = with_contract(foreign("NHWC", shape), Contract(**fields))
    data = make_data(shape=shape)

    behind = jpeg(Twin(theirs), data, threat, generator(), Silent(), quality=20)

    x = data.validation.floats()
    wanted = Session(theirs)(Codec(20)(x))
    session = Session(behind.data)
    # Undoing a normalisation and doing it again costs some roundings of float32.
    assert torch.allclose(session(x), wanted, rtol=1e-4, atol=1e-3)
    assert not torch.allclose(Session(theirs)(x), wanted, rtol=1e-2)
    prove("twin", session, behind, x)
    written = onnx.load_model_from_string(behind.data)
    assert contract_of(written) == Contract(**fields)
    assert [value.name for value in written.graph.input] == ["theirs"]
    assert session.facts().gradients == "bpda"


@pytest.mark.parametrize("opset", [11, pytest.param(22, marks=pytest.mark.slow)])
def test_one_stands_in_front_of_another_at_any_operator_set_that_rounds(
    opset, foreign, data, threat, generator
):
    theirs = foreign(opset=opset)
    first = bit_depth(Twin(theirs), data, threat, generator(), Silent(), bits=4)
    second = bit_depth(first, data, threat, generator(), Silent(), bits=1)

    x = data.validation.floats()
    assert torch.allclose(second(x), Session(theirs)(Squeeze(4)(Squeeze(1)(x))), atol=1e-5)
    assert Session(second.data).facts().opset == opset


def test_what_cannot_be_done_is_refused_in_one_line(
    foreign, make_data, make_model, threat, generator
):
    two = make_data(shape=(2, 8, 8))
    with pytest.raises(ModelError, match=r"^jpeg: got images of 2 channels, expected 1"):
        jpeg(make_model(shape=(2, 8, 8)), two, threat, generator(), Silent())
    with pytest.raises(ModelError, match=r"got ONNX opset 10, expected at least 11"):
        bit_depth(Twin(foreign(opset=10)), make_data(), threat, generator(), Silent())
    with pytest.raises(ModelError, match=r"got images of shape \(2, 1, 8, 8\), expected"):
        bit_depth(Twin(foreign(shape=(1, 9, 8))), make_data(), threat, generator(), Silent())


def test_what_is_computed_of_an_image_s_size_is_no_rounding_of_the_image(foreign):
    assert not Session(foreign()).facts().rounds


@pytest.mark.parametrize("name", ["jpeg", pytest.param("bit_depth", marks=pytest.mark.slow)])
def test_a_careless_attack_finds_nothing_and_one_through_the_twin_everything(
    name, model, data, generator
):
    threat = ThreatModel(eps=0.3)
    trained = standard(model, data, generator(), Silent(), loop=Loop(epochs=3, batch_size=32))
    form = DEFENSES[name](trained, data, threat, generator(), Silent())
    twin = Twin(export(form, (1, 8, 8)))
    x, y = data.validation.floats(), data.validation.labels

    def left(led_by):
        x_adv = pgd(led_by, x, y, threat, generator(), steps=20).x_adv
        return float((twin(x_adv).argmax(1) == y).float().mean())

    assert left(form) > 0.9
    assert left(twin) < 0.1


@pytest.mark.parametrize(("form", "led"), [("model", False), ("file", True)])
def test_behind_rounding_a_training_meets_gradients_in_a_file_alone(
    form, led, model, data, threat, generator, monkeypatch
):
    """Why a configuration may not train a model of ours behind it."""
    front = bit_depth(model, data, threat, generator(), Silent())
    if form == "file":
        front = Twin(export(front, (1, 8, 8)))
    seen, ascend = [], ThreatModel.ascend
    monkeypatch.setattr(
        ThreatModel, "ascend", lambda self, g: seen.append(bool(g.any())) or ascend(self, g)
    )

    n_fgsm(front, data, threat, generator(), Silent(), loop=Loop(epochs=2, batch_size=32))

    assert set(seen) == {led}
