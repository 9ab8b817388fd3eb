import onnx
import pytest
import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from hardening.data.types import metadata
from hardening.errors import ConfigError, ModelError
from hardening.models import files
from hardening.models.architecture import Architecture, build

NAMES = {
    "small_cnn": {"width": 3},
    "resnet20": {},
    "wide_resnet": {"depth": 10, "width": 1},
    "torchvision": {"architecture": "shufflenet_v2_x0_5"},
}


def used(name="small_cnn"):
    """A model whose batch statistics and counters are no longer the initial ones."""
    shape = (3, 32, 32)
    architecture = Architecture(
        name=name,
        params=NAMES[name],
        shape=shape,
        classes=5,
        mean=(0.485, 0.456, 0.406),
        std=(0.1, 1 / 3, 0.225),
    )
    model = build(architecture, seed=1)
    model(torch.rand(4, *shape, generator=torch.Generator().manual_seed(0)))
    return model


@pytest.mark.parametrize("name", list(NAMES))
def test_a_saved_model_comes_back_bit_for_bit(name):
    model = used(name)

    loaded = files.load(files.save(model))

    assert loaded.architecture == model.architecture
    assert not loaded.training
    before, after = model.state_dict(), loaded.state_dict()
    assert before.keys() == after.keys()
    for key, value in before.items():
        assert value.dtype == after[key].dtype
        assert torch.equal(value, after[key]), key
    x = torch.rand(2, *model.architecture.shape)
    assert torch.equal(model.eval()(x), loaded(x))


def test_the_same_model_gives_the_same_bytes():
    model = used()

    assert files.save(model) == files.save(model.eval())
    assert files.save(files.load(files.save(model))) == files.save(model)


def test_saving_leaves_the_model_as_it_was():
    model = used()
    before = {key: value.clone() for key, value in model.state_dict().items()}

    files.save(model)

    assert model.training
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("length", [0, 7, 100, -1])
def test_a_truncated_file_is_refused(length):
    with pytest.raises(ModelError, match=r"^m\.safetensors: "):
        files.load(files.save(used())[:length], "m.safetensors")


def test_weights_without_an_architecture_are_no_model():
    data = save_tensors(dict(used().net.state_dict()))

    with pytest.raises(ModelError, match=r"got no architecture in its header"):
        files.load(data)


@pytest.mark.parametrize(
    ("old", "new", "error"),
    [
        ('"small_cnn"', '"large_cnn"', ConfigError),
        ('"classes":5', '"classes":6', ModelError),
        ('"classes":5', '"classes":0', ModelError),
        ('"name"', '"nome"', ModelError),
        ("{", "", ModelError),
    ],
)
def test_a_header_that_does_not_fit_is_refused(old, new, error):
    data = files.save(used())
    text = metadata(data)["architecture"]
    changed = save_tensors(load_tensors(data), {"architecture": text.replace(old, new, 1)})

    with pytest.raises(error):
        files.load(changed)


def test_an_onnx_file_is_never_taken_for_a_saved_model():
    # The ninth byte, where the header of a saved model starts with a brace.
    data = onnx.ModelProto(ir_version=10, producer_name="test{x").SerializeToString()
    assert data[8:9] == b"{"
    assert not files.is_saved(data)
    assert files.is_saved(files.save(used()))
