"""The float form of an int8 file is that file without its rounding, or is refused."""

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from hardening.deployment.contract import Contract, contract_of, with_contract
from hardening.deployment.float_form import float_form
from hardening.deployment.parity import compare, prove
from hardening.deployment.quantize import quantize_int8
from hardening.deployment.session import Session
from hardening.deployment.storage import precision, store_in_4_bits
from hardening.deployment.twin import Twin
from hardening.errors import ModelError, NoFloatForm

HEAD = '<ir_version: 10, opset_import: ["" : 20, "com.microsoft" : 1]>'

HALF = "g (float[batch,1,1,2] x) => (float[batch,K] y) <float s = {0.5}, TYPE z = {ZERO}>"

ROUNDED = """{
    q = QuantizeLinear(x, s, z)
    d = DequantizeLinear(q, s, z)
    f = Flatten(d)
    y = Neg(f) }"""


def rounded(tools, kind, zero, graph=ROUNDED, head=HEAD):
    """Steps of 0.5 and a sign, so that what is last is no Q and no DQ."""
    return tools.parsed(head + HALF.replace("TYPE", kind).replace("ZERO", str(zero)) + graph)


def test_it_is_a_float_file_that_computes_the_same_but_for_rounding(int8_file, float_file, tools):
    x = torch.cat([tools.pictures(60), tools.edges()])
    data = float_form(int8_file)
    ours, its, floats = (Session(file)(x) for file in (data, int8_file, float_file))

    assert precision(onnx.load_model_from_string(data)) == "float32"
    assert len(ours.unique()) > len(ours)
    assert 0 < compare(ours, its).max_difference < 0.02 * its.abs().max()
    assert compare(ours, floats).max_difference < 0.25 * floats.abs().max()
    prove("float form", Twin(data), Session(data), x)
    assert float_form(int8_file) == data


def test_its_weights_are_those_of_the_integers(int8_file):
    """To the last bit: what leads are these weights, not those before they were rounded."""
    given, made = (onnx.load_model_from_string(d) for d in (int8_file, float_form(int8_file)))
    stored, weights = (
        {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
        for model in (given, made)
    )
    makers = {node.output[0]: node for node in given.graph.node}
    layers = [node for node in given.graph.node if node.op_type in {"Conv", "Gemm"}]
    for layer in layers:
        integers, scale = (stored[name] for name in makers[layer.input[1]].input[:2])
        shape = [-1, *[1] * (integers.ndim - 1)]
        assert np.array_equal(weights[layer.input[1]], integers * scale.reshape(shape))
    assert len(layers) >= 3


def test_its_gradients_need_no_straight_through_rule(int8_file, tools):
    x = tools.pictures(20)
    gradients = []
    for data in (float_form(int8_file), int8_file):
        images = x.clone().requires_grad_()
        gradients.append(torch.autograd.grad(Twin(data)(images).logsumexp(1).sum(), images)[0])
    first, second = (gradient.flatten() for gradient in gradients)

    assert torch.nn.functional.cosine_similarity(first, second, 0) > 0.9


@pytest.mark.parametrize(
    ("kind", "zero", "low", "high"),
    [
        ("uint8", 0, 0.0, 127.75),
        ("uint8", 128, -64.25, 63.75),
        ("int8", 0, -64.25, 63.75),
        ("int8", -128, 0.0, 127.75),
        ("uint16", 0, 0.0, 32767.75),
    ],
)
def test_values_end_half_a_step_outside_the_integers_and_at_zero_for_a_relu(
    tools, kind, zero, low, high
):
    data = float_form(rounded(tools, kind, zero))
    x = torch.tensor([-1e6, -0.3, 0.3, 1e6, low, high]).view(-1, 1, 1, 1).repeat(1, 1, 1, 2)
    expected = -x.flatten(1).clamp(low, high)

    assert torch.equal(Twin(data)(x), expected)
    assert torch.equal(Session(data)(x), expected)


@pytest.mark.parametrize("opset", [10, 13, 21])
def test_a_white_pixel_keeps_its_gradient(tools, opset):
    """255 steps of 1 / 255 in float32 may end below 1: a clip there would hold it fast."""
    graph = rounded(tools, "uint8", 0, head=HEAD.replace('"" : 20', f'"" : {opset}'))
    data = float_form(graph.replace(np.float32(0.5).tobytes(), np.float32(0.99 / 255).tobytes()))
    x = torch.full((1, 1, 1, 2), 0.991, requires_grad=True)
    assert float(Twin(data)(x.detach())[0, 0]) == pytest.approx(-0.991)
    assert torch.autograd.grad(Twin(data)(x).sum(), x)[0].eq(-1).all()


def test_rounded_logits_do_not_end(tools):
    """Above the range that was calibrated they would tie, and have no gradient."""
    graph = "{ f = Flatten(x) q = QuantizeLinear(f, s, z) y = DequantizeLinear(q, s, z) }"
    x = torch.tensor([[-7e3, 9e3], [500.0, 400.0]]).view(2, 1, 1, 2)
    assert torch.equal(Twin(float_form(rounded(tools, "uint8", 3, graph)))(x), x.flatten(1))


@pytest.mark.parametrize(
    "fields", [{"range": "0..255"}, {"layout": "NHWC"}, {"mean": [0.4] * 3, "std": [0.3] * 3}]
)
def test_the_contract_stays(floats, tools, fields):
    file = floats["plain"]
    if "layout" not in fields:
        int8 = quantize_int8(with_contract(file, Contract(**fields)), tools.pictures(16))
        data = float_form(int8)
        assert contract_of(onnx.load_model_from_string(data)) == Contract(**fields)
        x = tools.pictures(20)
        scale = Session(int8)(x).abs().max()
        assert compare(Session(data)(x), Session(int8)(x)).max_difference < 0.05 * scale


def test_weights_alone_in_integers_are_the_same_file_in_float(floats, tools):
    four, x = store_in_4_bits(floats["residual"]), tools.pictures(20)
    torch.testing.assert_close(Session(float_form(four))(x), Session(four)(x))


INTEGERS = {
    "operator Max on integers": "{ q = QuantizeLinear(x, s, z) m = Max(q, q) "
    "d = DequantizeLinear(m, s, z) y = Flatten(d) }",
    "operator Cast on integers": "{ q = QuantizeLinear(x, s, z) m = Cast<to = 1>(q) "
    "y = Flatten(m) }",
    "holds integers that nobody quantized": "{ q = Cast<to = 2>(x) "
    "d = DequantizeLinear(q, s, z) y = Flatten(d) }",
    "is read on another grid": "{ q = QuantizeLinear(x, s, z) "
    "d = DequantizeLinear(q, s) y = Flatten(d) }",
    "with a computed scale": "{ t = ReduceMax<keepdims = 0>(x) q = QuantizeLinear(x, t, z) "
    "d = DequantizeLinear(q, t, z) y = Flatten(d) }",
}


@pytest.mark.parametrize("reason", INTEGERS)
def test_what_has_no_float_form_is_refused_in_one_line(tools, reason):
    with pytest.raises(NoFloatForm, match=rf"^ONNX file \w+: no float form of it: .*{reason}") as e:
        float_form(rounded(tools, "uint8", 3, INTEGERS[reason]))
    assert "\n" not in str(e.value)


def test_integers_that_only_move_keep_their_meaning(tools):
    graph = """{ q = QuantizeLinear(x, s, z) p = MaxPool<kernel_shape = [1, 1]>(q)
        t = Transpose<perm = [0, 1, 3, 2]>(p) c = Concat<axis = 2>(t, t)
        d = DequantizeLinear(c, s, z) n = Neg(d) y = Flatten(n) }"""
    graph = rounded(tools, "uint8", 0, graph.replace("[batch,2] y", "[batch,4] y"))
    x = torch.rand(5, 1, 1, 2)
    torch.testing.assert_close(Twin(float_form(graph))(x), -x.flatten(1).repeat(1, 2))


def shared(scales):
    """20 products of integers with one stored matrix, read with these scales one after another."""
    count = 20
    products = " ".join(
        f"q{i + 1} = QLinearMatMul(q{i}, s, z, w, s{i % len(scales)}, v, s, z)"
        for i in range(count)
    )
    stored = ", ".join(f"float s{i} = {{{scale}}}" for i, scale in enumerate(scales))
    model = onnx.parser.parse_model(
        f"{HEAD} g (float[batch,1,8,8] x) => (float[batch,64] y) "
        f"<float s = {{0.02}}, uint8 z = {{3}}, int8 v = {{0}}, {stored}> {{ f = Flatten(x) "
        f"q0 = QuantizeLinear(f, s, z) {products} y = DequantizeLinear(q{count}, s, z) }}",
    )
    weight = np.roll(np.eye(64, dtype=np.int8), 1, 1)
    model.graph.initializer.append(numpy_helper.from_array(weight, "w"))
    return model.SerializeToString()


def test_a_tensor_that_many_operators_read_is_converted_once():
    """Else a small file could ask for any memory."""
    data = shared([1.0])
    form, x = float_form(data), torch.rand(30, 1, 8, 8)

    assert sum(len(t.raw_data) for t in onnx.load_model_from_string(form).graph.initializer) < 17000
    assert compare(Session(form)(x), Session(data)(x)).max_difference <= 0.02
    assert compare(Session(form)(x), x.flatten(1).roll(20, 1)).max_difference < 1e-5


def test_a_form_that_is_far_larger_than_its_file_is_none():
    scales = [1 + 2**-i for i in range(20)]
    with pytest.raises(NoFloatForm, match=r"in floats its tensors are more than 8 times as large$"):
        float_form(shared(scales))


def test_bytes_that_are_no_file_are_refused_as_everywhere():
    with pytest.raises(ModelError, match="no ONNX graph"):
        float_form(b"")
