import numpy as np
import onnx
import pytest
import torch
import torchvision
from onnx import numpy_helper

from hardening.deployment.contract import Contract, with_contract
from hardening.deployment.export import export
from hardening.deployment.layers import Pair, layers, prove_twin
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


THEIRS = """<ir_version: 10, opset_import: ["" : 20]>
g (float[1,16,16,3] images) => (float[1,10] answers) {
    planes = Transpose<perm = [0, 3, 1, 2]>(images) unit = Mul(planes, small)
    a = Conv<pads = [1, 1, 1, 1]>(unit, w) b = Relu(a) c = Conv<strides = [2, 2]>(b, v)
    d = Sigmoid(c) e = GlobalAveragePool(d) f = Flatten(e) g = MatMul(f, u)
    answers = Softmax(g) }"""


@pytest.fixture
def theirs():
    """A file of one image, NHWC in 0..255, that ends in a softmax."""
    rng = np.random.default_rng(0)
    model = onnx.parser.parse_model(THEIRS)
    shapes = {"w": (8, 3, 3, 3), "v": (12, 8, 3, 3), "u": (12, 10)}
    stored = {name: rng.normal(size=shape) for name, shape in shapes.items()} | {"small": 1 / 255}
    for name, value in stored.items():
        model.graph.initializer.append(numpy_helper.from_array(np.float32(value), name))
    for node in model.graph.node:
        node.name = f"the {node.op_type} of {node.output[0]}"
    contract = Contract(layout="NHWC", range="0..255", outputs="probabilities")
    return with_contract(model.SerializeToString(), contract)


def test_a_file_of_any_contract_and_a_fixed_batch_has_the_runtime_s_layers(theirs, tools):
    found = layers(Twin(theirs), tools.pictures(5))

    assert [layer.tensor for layer in found][-2:] == ["g", "answers"]
    assert {len(layer.ours) for layer in found} == {5}
    assert not any(layer.differs(1e-5) for layer in found)


@pytest.mark.parametrize("tensor", ["unit", "c", "d", "g", "answers"])
def test_the_node_that_differs_is_named_whatever_the_contract(tensor, theirs, tools):
    twin = Twin(theirs)
    broken = step(twin, tensor)
    right = broken.compute
    broken.compute = lambda *inputs: 1.01 * right(*inputs)

    with pytest.raises(ParityError) as caught:
        prove_twin("twin", twin, Session(theirs), tools.pictures(20))

    node = next(n for n in onnx.load_model_from_string(theirs).graph.node if tensor in n.output)
    assert f"; first {node.op_type} {node.name!r} (tensor {tensor!r}): " in str(caught.value)


def test_what_a_last_sigmoid_reads_are_logits_whatever_the_contract(tools):
    """They lie outside [0, 1]; a parity that fails here must still name its node."""
    data = with_contract(
        tools.parsed(
            '<ir_version: 10, opset_import: ["" : 20]> g (float[batch,1,4,4] x) => '
            "(float[batch,16] y) <float s = {9.0}, float c = {0.5}> "
            "{ f = Flatten(x) d = Sub(f, c) m = Mul(d, s) y = Sigmoid(m) }"
        ),
        Contract(outputs="probabilities"),
    )
    twin, x = Twin(data), torch.rand(20, 1, 4, 4)
    found = layers(twin, x)

    assert [pair.tensor for pair in found] == ["f", "d", "m"]
    assert found[-1].theirs.min() < -1
    assert not any(pair.differs(1e-5) for pair in found)

    step(twin, "m").compute = lambda *inputs: 1.01 * inputs[0] * inputs[1]
    with pytest.raises(ParityError, match=r"; first Mul '' \(tensor 'm'\): "):
        prove_twin("twin", twin, Session(data), x)


def test_a_larger_fixed_batch_is_filled_up(theirs, tools):
    model = onnx.load_model_from_string(theirs)
    for end in (*model.graph.input, *model.graph.output):
        end.type.tensor_type.shape.dim[0].dim_value = 4
    twin = Twin(model.SerializeToString())

    found = layers(twin, tools.pictures(6))

    assert {len(layer.theirs) for layer in found} == {8}
    assert not any(layer.differs(1e-5) for layer in found)


def test_what_is_not_finite_in_one_form_alone_differs():
    node = onnx.helper.make_node("Log", ["x"], ["y"])
    fine, bad = torch.tensor([0.0, -torch.inf]), torch.tensor([torch.nan, -torch.inf])

    assert Pair(node, "y", fine, bad).differs(1e-4)
    assert Pair(node, "y", fine + 1, fine).differs(1e-4)
    assert not Pair(node, "y", bad, bad).differs(1e-4)


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
