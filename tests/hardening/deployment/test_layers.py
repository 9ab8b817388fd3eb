import pytest
import torch
import torchvision

from hardening.deployment.export import export
from hardening.deployment.layers import layers, prove_twin
from hardening.deployment.quantize import quantize_int8
from hardening.deployment.session import Session
from hardening.deployment.twin import Twin
from hardening.errors import ParityError


def step(twin, tensor):
    return next(step for step in twin.steps if tensor in step.outputs)


def test_every_integer_of_every_layer_is_the_runtime_s(int8_file, tools):
    twin = Twin(int8_file)
    clean = tools.pictures(100, seed=3)
    x = torch.cat([clean, tools.edges(), tools.towards(twin, clean)])

    found = layers(twin, x)

    assert len(found) > 4
    assert all(layer.node.op_type == "QuantizeLinear" for layer in found[:-1])
    assert found[-1].tensor == "logits"
    for layer in found:
        assert torch.equal(layer.ours, layer.theirs), str(layer)


def test_floats_of_every_layer_are_close_to_the_runtime_s(float_file, tools):
    found = layers(Twin(float_file), tools.pictures(20))

    assert len(found) > 4
    assert not any(layer.differs(1e-5) for layer in found)


def test_equal_forms_are_proven(int8_file, tools):
    twin = Twin(int8_file)

    assert prove_twin("twin", twin, Session(int8_file), tools.pictures(20)).max_difference == 0


def test_the_first_layer_that_differs_is_named_with_its_difference(ints, tools):
    twin = Twin(ints["residual"])
    middle = layers(twin, tools.pictures(2))[3]
    step(twin, middle.tensor).compute.bias += 2**20

    with pytest.raises(ParityError) as caught:
        prove_twin("shipped", twin, Session(twin.data), tools.pictures(20))

    text = str(caught.value)
    assert text.startswith("shipped: logits differ by")
    assert f"; first QuantizeLinear {middle.node.name!r} (tensor {middle.tensor!r}): " in text
    assert "values differ, by up to" in text
    assert "\n" not in text


def test_a_difference_of_floats_is_named_too(floats, tools):
    twin = Twin(floats["plain"])
    convolutions = [
        layer for layer in layers(twin, tools.pictures(2)) if layer.node.op_type == "Conv"
    ]
    inner = step(twin, convolutions[1].tensor)
    buffer = twin._floats[inner.inputs[1]]
    getattr(twin, buffer).mul_(1.5)

    with pytest.raises(ParityError, match=f"; first Conv '{convolutions[1].node.name}'"):
        prove_twin("shipped", twin, Session(twin.data), tools.pictures(20))


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["resnet18", "mobilenet_v3_small"])
def test_every_integer_of_quantized_torchvision_networks_is_the_runtime_s(architecture, tools):
    shape = (3, 64, 64)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = getattr(torchvision.models, architecture)(num_classes=10)
    int8 = quantize_int8(export(tools.settle(network, shape), shape), tools.pictures(32, shape))

    found = layers(Twin(int8), tools.pictures(24, shape, seed=5))

    assert len(found) > 20
    for layer in found:
        assert torch.equal(layer.ours, layer.theirs), str(layer)
