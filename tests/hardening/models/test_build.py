import pytest
import torch

from hardening.errors import ConfigError
from hardening.models import MODELS
from hardening.models.architecture import Architecture, build

TINY = {
    "small_cnn": {"width": 4},
    "resnet20": {},
    "preact_resnet18": {"width": 4},
    "wide_resnet": {"depth": 10, "width": 1},
    "torchvision": {"architecture": "resnet18", "stem": "small"},
}


def describe(name="small_cnn", params=None, shape=(1, 8, 8), classes=3, **changes):
    channels = shape[0]
    values = {"mean": (0.4,) * channels, "std": (0.2,) * channels} | changes
    return Architecture(name=name, params=params or {}, shape=shape, classes=classes, **values)


def images(shape, count=2):
    return torch.rand(count, *shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 8, 8), (1, 28, 28), (3, 32, 32)], ids=str)
@pytest.mark.parametrize("classes", [2, 3, 10])
@pytest.mark.parametrize("name", [name for name in MODELS if name != "torchvision"])
def test_classes_and_channels_follow_the_data(name, classes, shape):
    model = build(describe(name, TINY[name], shape, classes), seed=0)

    assert model(images(shape)).shape == (2, classes)


def test_every_network_has_a_tiny_form_here():
    assert TINY.keys() == MODELS.keys()


@pytest.mark.parametrize("name", list(MODELS))
def test_initial_weights_depend_on_the_seed_alone(name):
    architecture = describe(name, TINY[name])
    first = build(architecture, seed=7).state_dict()
    torch.rand(3)
    second, other = build(architecture, seed=7).state_dict(), build(architecture, seed=8)

    assert all(torch.equal(first[key], second[key]) for key in first)
    assert any(not torch.equal(first[key], value) for key, value in other.state_dict().items())


def test_building_leaves_the_global_generator_as_it_was():
    before = torch.get_rng_state()

    build(describe(), seed=7)

    assert torch.equal(torch.get_rng_state(), before)


def test_normalisation_happens_inside():
    model = build(describe(mean=(0.25,), std=(0.5,)), seed=0).eval()
    x = images((1, 8, 8))

    assert torch.equal(model(x), model.net((x - 0.25) / 0.5))


def test_every_channel_is_normalised_by_its_own_numbers():
    model = build(describe(shape=(2, 8, 8), mean=(0.1, 0.9), std=(0.2, 0.4)), seed=0).eval()
    x = images((2, 8, 8))
    normalised = torch.stack([(x[:, 0] - 0.1) / 0.2, (x[:, 1] - 0.9) / 0.4], 1)

    torch.testing.assert_close(model(x), model.net(normalised))


def test_normalisation_is_no_weight_to_load_or_to_train():
    model = build(describe(), seed=0)

    assert not {"mean", "std"} & set(model.state_dict())
    assert not {"mean", "std"} & {name for name, _ in model.named_parameters()}


def test_an_unknown_network_is_refused_with_the_nearest_name():
    with pytest.raises(ConfigError, match=r"model: unknown name 'resnet_20', did you mean"):
        build(describe("resnet_20"), seed=0)


def test_an_unknown_hyper_parameter_is_refused_with_the_nearest_name():
    with pytest.raises(ConfigError, match=r"unknown parameter 'widht', did you mean 'width'"):
        build(describe("small_cnn", {"widht": 8}), seed=0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mean": (0.1, 0.2)}, "got 2 numbers as mean, expected one for each of the 1 channels"),
        ({"std": ()}, "got 0 numbers as std"),
        ({"std": (0.0,)}, "expected numbers above 0"),
        ({"classes": 1}, "greater than or equal to 2"),
    ],
    ids=str,
)
def test_an_architecture_that_cannot_be_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        describe(**changes)


@pytest.mark.parametrize("depth", [4, 11, 27, -2])
def test_wide_resnet_refuses_depths_that_make_no_three_equal_stages(depth):
    with pytest.raises(ConfigError, match=r"wide_resnet.depth: got -?\d+, expected 6 n \+ 4"):
        build(describe("wide_resnet", {"depth": depth}), seed=0)
