from copy import deepcopy

import onnx
import onnxruntime
import pytest
import torch
import torchvision
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from hardening.deployment.export import export
from hardening.deployment.parity import compare
from hardening.deployment.quantize import quantize_int8
from hardening.deployment.session import Session
from hardening.deployment.twin import Twin


def gradient(model, x, labels=None):
    z = x.clone().requires_grad_()
    logits = model(z)
    labels = logits.detach().argmax(1) if labels is None else labels
    loss = nn.functional.cross_entropy(logits, labels, reduction="sum")
    return torch.autograd.grad(loss, z)[0]


def everywhere(file, tools):
    """Clean, extreme and adversarial images of many contrasts."""
    clean = tools.pictures(300, seed=3)
    return torch.cat([clean, tools.edges(), tools.towards(Twin(file), clean[:100])])


def test_an_int8_twin_computes_the_session_s_logits_bit_for_bit(int8_file, tools):
    x = everywhere(int8_file, tools)

    parity = compare(Session(int8_file)(x), Twin(int8_file)(x))

    assert parity.max_difference == 0.0
    assert parity.scale > 0.1
    assert parity.images > 400


def test_a_float_twin_computes_the_session_s_logits(float_file, tools):
    x = everywhere(float_file, tools)

    assert compare(Session(float_file)(x), Twin(float_file)(x)).max_difference < 1e-5


def test_integer_kernels_are_used_where_the_runtime_uses_them(ints, tmp_path):
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 4
    onnxruntime.InferenceSession(ints["residual"], options, providers=["CPUExecutionProvider"])
    theirs = [n.op_type for n in onnx.load(tmp_path / "optimized.onnx").graph.node]
    ours = [type(step.compute).__name__ for step in Twin(ints["residual"]).steps]

    assert ours.count("WeightedSum") == theirs.count("QLinearConv") + theirs.count("QGemm") == 10
    assert ours.count("Addition") == theirs.count("QLinearAdd") == 3


def test_a_float_twin_has_the_module_s_gradients(model, float_file, tools):
    x = tools.pictures(16)
    labels = torch.arange(16) % 10

    theirs = gradient(model, x, labels)

    torch.testing.assert_close(gradient(Twin(float_file), x, labels), theirs, atol=1e-5, rtol=1e-3)
    assert theirs.abs().max() > 1e-2


def test_an_int8_twin_s_gradients_point_where_the_float_ones_do(model, int8_file, tools):
    x = tools.pictures(32)
    labels = torch.arange(32) % 10

    ours, theirs = gradient(Twin(int8_file), x, labels), gradient(model, x, labels)

    large = theirs.abs() > theirs.abs().mean()
    assert (ours.sign() == theirs.sign())[large].float().mean() > 0.9
    assert (ours.flatten(1).abs().amax(1) > 0).all()


def test_saturated_pixels_keep_their_gradient(models, floats, tools):
    """A clip rule would give white pixels no gradient: they never move, and the attack is blind."""
    dim = quantize_int8(floats["plain"], 0.8 * tools.pictures(64))
    x = torch.ones(2, *tools.shape)
    labels = torch.tensor([0, 1])
    twin = Twin(dim)
    inner = next(step for step in twin.steps if "QuantizeLinear" in step.outputs[0])
    outputs = []
    inner.register_forward_hook(lambda _, inputs, outs: outputs.append((inputs, outs)))

    found = gradient(twin, x, labels)

    ((value, scale, zero), (integers,)) = outputs[0]
    assert (value / scale + zero).min() > 255.5, "the white pixel is not beyond the grid"
    assert (integers == 255).all()
    assert (found != 0).float().mean() > 0.5
    assert torch.equal(Session(dim)(x), twin(x))
    expected = gradient(models["plain"], x, labels)
    assert nn.functional.cosine_similarity(found.flatten(), expected.flatten(), 0) > 0.8


def relu_graph():
    """x -> uint8 -> times -1 or +1 -> uint8 at zero point 0 (a fused ReLU) -> mean: two logits."""
    node = helper.make_node
    tensors = {
        "scale": torch.tensor(1 / 255).numpy(),
        "zero": torch.tensor(0, dtype=torch.uint8).numpy(),
        "weights": torch.tensor([-1, 1], dtype=torch.int8).view(2, 1, 1, 1).numpy(),
        "unit": torch.tensor(1.0).numpy(),
        "none": torch.tensor(0, dtype=torch.int8).numpy(),
        "axes": torch.tensor([2, 3]).numpy(),
    }
    grid = ["scale", "zero"]
    nodes = [
        node("QuantizeLinear", ["x", *grid], ["xq"]),
        node("DequantizeLinear", ["xq", *grid], ["xd"]),
        node("DequantizeLinear", ["weights", "unit", "none"], ["w"]),
        node("Conv", ["xd", "w"], ["c"]),
        node("QuantizeLinear", ["c", *grid], ["cq"]),
        node("DequantizeLinear", ["cq", *grid], ["cd"]),
        node("ReduceMean", ["cd", "axes"], ["y"], keepdims=0),
    ]
    graph = helper.make_graph(
        nodes,
        "relu",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 1, 2, 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 2])],
        [numpy_helper.from_array(value, name) for name, value in tensors.items()],
    )
    opset = [helper.make_opsetid("", 20)]
    return helper.make_model(graph, opset_imports=opset, ir_version=10).SerializeToString()


def test_a_fused_relu_has_the_gradient_of_a_relu():
    data = relu_graph()
    twin = Twin(data)
    x = torch.tensor([[0.2, 0.4], [0.6, 1.0]]).view(1, 1, 2, 2).requires_grad_()
    dead, alive = twin(x)[0]

    assert any(type(step.compute).__name__ == "WeightedSum" for step in twin.steps)
    assert torch.equal(Session(data)(x), twin(x))
    assert dead == 0
    assert torch.equal(torch.autograd.grad(dead, x, retain_graph=True)[0], torch.zeros(1, 1, 2, 2))
    slopes = torch.autograd.grad(alive, x)[0]
    torch.testing.assert_close(slopes, torch.full((1, 1, 2, 2), 0.25), atol=0, rtol=0.01)


def test_a_copy_computes_the_same_and_shares_nothing(int8_file, tools):
    twin = Twin(int8_file)
    copy = deepcopy(twin)
    x = tools.pictures(5)

    assert copy.data == twin.data
    assert torch.equal(copy(x), twin(x))
    ours = {tensor.data_ptr() for tensor in twin.buffers()}
    assert ours.isdisjoint(tensor.data_ptr() for tensor in copy.buffers())


def test_modes_and_moves_have_no_effect(int8_file, tools):
    twin = Twin(int8_file)
    x = tools.pictures(5)
    expected = twin(x)

    assert not twin.training
    assert torch.equal(twin.train()(x), expected)
    assert torch.equal(twin.to("cpu").eval()(x), expected)
    assert list(twin.parameters()) == []


def test_every_tensor_of_a_kernel_moves_with_the_module(int8_file):
    moved = Twin(int8_file).to("meta")

    assert all(tensor.is_meta for tensor in moved.buffers())
    kernels = [step.compute for step in moved.steps if isinstance(step.compute, nn.Module)]
    assert all(list(kernel.buffers()) for kernel in kernels)


def test_images_are_left_alone_and_batches_do_not_matter(int8_file, tools):
    twin = Twin(int8_file)
    x = tools.pictures(9)
    before = x.clone()

    assert torch.equal(torch.cat([twin(part) for part in x.split(2)]), twin(x))
    assert torch.equal(x, before)


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["resnet18", "mobilenet_v3_small", "shufflenet_v2_x0_5"])
def test_quantized_torchvision_networks_are_exact(architecture, tools):
    shape = (3, 64, 64)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = getattr(torchvision.models, architecture)(num_classes=10)
    data = export(tools.settle(network, shape), shape)
    int8 = quantize_int8(data, tools.pictures(32, shape))
    x = tools.pictures(24, shape, seed=5)
    x = torch.cat([x, tools.towards(Twin(int8), x, steps=2)])

    assert torch.equal(Session(int8)(x), Twin(int8)(x))
