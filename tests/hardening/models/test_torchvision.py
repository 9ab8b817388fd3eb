import pytest
import torch
from torch import nn

from hardening.errors import ConfigError
from hardening.models.torchvision import torchvision


@pytest.mark.parametrize(
    ("architecture", "size"),
    [
        ("resnet18", 32),
        ("mobilenet_v3_small", 32),
        ("shufflenet_v2_x0_5", 32),
        ("squeezenet1_1", 32),
    ],
)
@pytest.mark.parametrize(("channels", "classes"), [(1, 2), (3, 10)])
def test_channels_and_classes_follow_the_data(architecture, size, channels, classes):
    net = torchvision((channels, size, size), classes, architecture=architecture)

    assert net.training
    assert net(torch.rand(2, channels, size, size)).shape == (2, classes)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("architecture", "size"),
    [("vit_b_32", 32), ("swin_t", 32), ("maxvit_t", 224), ("googlenet", 64), ("inception_v3", 96)],
)
def test_families_with_arguments_of_their_own_return_logits_only(architecture, size):
    net = torchvision((1, size, size), 3, architecture=architecture)

    assert net(torch.rand(2, 1, size, size)).shape == (2, 3)


def test_a_small_stem_keeps_the_resolution_of_small_images():
    net = torchvision((1, 16, 16), 3, architecture="resnet18", stem="small")

    assert net.conv1(torch.rand(2, 1, 16, 16)).shape == (2, 64, 16, 16)
    assert isinstance(net.maxpool, nn.Identity)


def test_the_imagenet_stem_is_left_as_torchvision_made_it():
    net = torchvision((3, 32, 32), 3, architecture="resnet18")

    assert net.conv1.kernel_size == (7, 7)
    assert isinstance(net.maxpool, nn.MaxPool2d)


def test_a_small_stem_is_refused_where_there_is_none():
    with pytest.raises(ConfigError, match=r"mobilenet_v3_small has no small stem"):
        torchvision((3, 32, 32), 3, architecture="mobilenet_v3_small", stem="small")


def test_an_unknown_architecture_is_refused_with_the_nearest_name():
    with pytest.raises(ConfigError, match=r"unknown name 'resnet_18', did you mean 'resnet18'"):
        torchvision((3, 32, 32), 3, architecture="resnet_18")


def test_a_detector_is_no_classifier():
    with pytest.raises(ConfigError, match=r"unknown name 'fasterrcnn_resnet50_fpn'"):
        torchvision((3, 32, 32), 3, architecture="fasterrcnn_resnet50_fpn")


def test_images_too_small_for_an_architecture_are_refused_by_name():
    with pytest.raises(ConfigError, match=r"squeezenet1_1 cannot take images of shape \(3, 8, 8\)"):
        torchvision((3, 8, 8), 3, architecture="squeezenet1_1")
