"""Published networks are the published ones: names of weights, numbers of weights, wiring."""

import pytest
import torch

from hardening.models.preact_resnet18 import preact_resnet18
from hardening.models.resnet20 import Block, resnet20
from hardening.models.small_cnn import small_cnn
from hardening.models.wide_resnet import wide_resnet


def weights(network):
    return sum(parameter.numel() for parameter in network.parameters())


def test_resnet20_has_the_names_of_the_published_weights():
    expected = {"conv1.weight", "linear.weight", "linear.bias"}
    norms = ["bn1"]
    for stage in (1, 2, 3):
        for block in (0, 1, 2):
            place = f"layer{stage}.{block}"
            expected |= {f"{place}.conv1.weight", f"{place}.conv2.weight"}
            norms += [f"{place}.bn1", f"{place}.bn2"]
    parts = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    expected |= {f"{norm}.{part}" for norm in norms for part in parts}

    assert set(resnet20((3, 32, 32), 10).state_dict()) == expected


def test_resnet20_has_the_published_number_of_weights():
    assert weights(resnet20((3, 32, 32), 10)) == 269_722


def test_preact_resnet18_has_the_published_number_of_weights():
    with torch.device("meta"):
        assert weights(preact_resnet18((3, 32, 32), 10)) == 11_172_170


def test_wide_resnet_28_10_has_the_published_number_of_weights():
    with torch.device("meta"):
        assert weights(wide_resnet((3, 32, 32), 10)) == 36_479_194


def test_option_a_shortcut_keeps_every_second_pixel_between_new_zero_channels():
    block = Block(4, 8, stride=2).eval()
    torch.nn.init.zeros_(block.conv2.weight)
    x = torch.rand(2, 4, 6, 6)

    out = block(x)

    assert torch.equal(out[:, 2:6], x[:, :, ::2, ::2])
    assert not out[:, :2].any()
    assert not out[:, 6:].any()


@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 9, 13), (3, 28, 28), (1, 31, 17), (3, 32, 32)])
def test_small_cnn_takes_images_of_odd_sizes(shape):
    assert small_cnn(shape, 4, width=2)(torch.rand(2, *shape)).shape == (2, 4)


def test_small_cnn_grows_with_its_width():
    assert weights(small_cnn((1, 8, 8), 4, width=2)) < weights(small_cnn((1, 8, 8), 4, width=3))
