"""What honest users bring beside our own exports: old opsets, odd types, fixed batches."""

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from hardening.deployment.session import Session
from hardening.deployment.signature import in_batches
from hardening.deployment.twin import Twin
from hardening.deployment.untrusted import read_model
from hardening.errors import ModelError

HEAD = '<ir_version: 8, opset_import: ["" : 13]> g (float[batch,1,4,4] x) => (float[batch,16] y)'
CONTRIB = HEAD.replace('"" : 13', '"" : 13, "com.microsoft" : 1').replace("batch,16", "batch,n")
GRID = "<float s = {0.1}, uint8 z = {3}> { q = QuantizeLinear(x, s, z) "
ENDS = " d = DequantizeLinear(r, s, z) y = Flatten(d) }"


def parsed(text):
    return onnx.parser.parse_model(text).SerializeToString()


@pytest.mark.parametrize("opset", [9, 11, 13, 17, 20, 23])
def test_opsets_from_9_pass_and_run(opset, tools):
    data = parsed(HEAD.replace('"" : 13', f'"" : {opset}') + " { z = Relu(x) y = Flatten(z) }")
    x = tools.pictures(3, (1, 4, 4))

    assert Session(data)(x).equal(x.flatten(1))


@pytest.mark.parametrize("kind", ["INT4", "UINT4"])
@pytest.mark.parametrize("raw", [True, False])
def test_four_bit_weights_pass_and_a_short_one_does_not(kind, raw):
    weight = helper.make_tensor("w", getattr(TensorProto, kind), [16, 3], [1] * 48)
    if not raw:
        packed = [*weight.raw_data]
        weight.ClearField("raw_data")
        weight.int32_data.extend(packed)
    model = onnx.parser.parse_model(
        HEAD.replace('"" : 13', '"" : 21').replace("ir_version: 8", "ir_version: 10")
        + "<float s = {0.5}> { f = Flatten(x) d = DequantizeLinear(w, s) y = MatMul(f, d) }"
    )
    model.graph.initializer.append(weight)
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 3
    assert read_model(model.SerializeToString(), "file.onnx")

    model.graph.initializer[-1].dims[1] = 5
    with pytest.raises(ModelError, match=r"tensor 'w' has shape \[16, 5\] but holds 48 elements"):
        read_model(model.SerializeToString(), "file.onnx")


@pytest.mark.parametrize("kind", ["FLOAT16", "BFLOAT16"])
def test_half_precision_weights_pass(kind):
    model = onnx.parser.parse_model(HEAD + " { f = Flatten(x) c = Cast<to = 1>(w) y = Mul(f, c) }")
    model.graph.initializer.append(
        helper.make_tensor("w", getattr(TensorProto, kind), [16], [1.0] * 16)
    )

    assert read_model(model.SerializeToString(), "file.onnx")


def test_stored_tensors_listed_as_inputs_pass_whatever_shape_the_list_says(tools):
    model = onnx.parser.parse_model(
        HEAD.replace("ir_version: 8", "ir_version: 3") + " { f = Flatten(x) y = MatMul(f, w) }"
    )
    model.graph.initializer.append(numpy_helper.from_array(np.eye(16, dtype=np.float32), "w"))
    model.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [16, 16]))
    x = tools.pictures(2, (1, 4, 4))

    assert Session(model.SerializeToString())(x).equal(x.flatten(1))


def test_a_dropout_that_is_switched_off_passes():
    body = " <float half = {0.5}, bool on = {0}> { z = Dropout(x, half, on) y = Flatten(z) }"
    assert read_model(parsed(HEAD + body), "file.onnx")


@pytest.mark.parametrize(
    "body",
    [
        "r = com.microsoft.QLinearAdd(q, s, z, q, s, z, s, z)",
        "r = com.microsoft.QLinearMul(q, s, z, q, s, z, s, z)",
        "r = com.microsoft.QLinearSigmoid(q, s, z, s, z)",
        "r = com.microsoft.QLinearLeakyRelu<alpha = 0.1>(q, s, z, s, z)",
        "r = com.microsoft.QLinearConcat<axis = 1>(s, z, q, s, z, q, s, z)",
        "r = com.microsoft.QLinearGlobalAveragePool(q, s, z, s, z)",
        "r = com.microsoft.QLinearAveragePool<kernel_shape = [2, 2]>(q, s, z, s, z)",
    ],
)
def test_the_runtimes_quantized_operators_pass_run_and_have_the_shape_we_infer(body, tools):
    data = parsed(f"{CONTRIB} {GRID} {body} {ENDS}")
    inferred = read_model(data, "file.onnx")

    logits = Session(data)(tools.pictures(2, (1, 4, 4)))
    assert inferred.graph.node
    assert len(logits) == 2


def test_one_with_channels_last_is_refused_by_name():
    body = "r = com.microsoft.QLinearGlobalAveragePool<channels_last = 1>(q, s, z, s, z)"
    with pytest.raises(ModelError, match="QLinearGlobalAveragePool with channels last"):
        read_model(parsed(f"{CONTRIB} {GRID} {body} {ENDS}"), "file.onnx")


@pytest.mark.parametrize("given", ["uint8", "float"])
def test_a_quantized_product_gives_floats_or_integers(given, tools):
    weight = numpy_helper.from_array(np.eye(16, dtype=np.uint8), "w")
    tail = ", s, z" if given == "uint8" else ""
    last = "y = DequantizeLinear(r, s, z)" if given == "uint8" else "y = Identity(r)"
    model = onnx.parser.parse_model(
        f"{CONTRIB} <float s = {{0.1}}, uint8 z = {{0}}> {{ f = Flatten(x) "
        f"q = QuantizeLinear(f, s, z) r = com.microsoft.QGemm(q, s, z, w, s, z, {tail}) {last} }}"
    )
    model.graph.initializer.append(weight)

    assert Session(model.SerializeToString())(tools.pictures(2, (1, 4, 4))).shape == (2, 16)


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("rigid", [True, False], ids=["only that batch", "any batch in truth"])
def test_a_fixed_batch_gives_the_logits_of_a_free_one(batch, rigid, tools):
    free = HEAD + " { z = Mul(x, x) y = Flatten(z) }"
    fixed = free.replace("batch", str(batch))
    if rigid:
        fixed = fixed.replace("y = Flatten(z)", "y = Reshape(z, shape)")
        fixed = fixed.replace(" { z", f" <int64[2] shape = {{{batch}, 16}}> {{ z")
    x = tools.pictures(7, (1, 4, 4))
    expected = Session(parsed(free))(x)
    session, twin = Session(parsed(fixed)), Twin(parsed(fixed))

    assert session(x).equal(expected)
    assert twin(x).equal(expected)
    z = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(twin(z).sum(), z)
    assert gradient.allclose(2 * x)


def test_images_that_fill_up_a_batch_are_not_in_the_logits():
    seen = []

    def run(x):
        seen.append(len(x))
        return x.flatten(1)

    x = torch.rand(5, 1, 2, 2)
    assert in_batches(run, x, 4).equal(x.flatten(1))
    assert seen == [4, 4]


def test_a_file_that_takes_one_image_and_says_any_is_refused():
    text = HEAD + " <int64[2] shape = {1, 16}> { y = Reshape(x, shape) }"
    with pytest.raises(ModelError, match="takes another number of images than it says"):
        read_model(parsed(text), "file.onnx")


def test_sizes_computed_from_shapes_are_followed(tools):
    """As the older exporter of torch writes them, with a division, a comparison and a choice."""
    data = parsed(
        HEAD
        + """ <int64 zero = {0}, int64[1] az = {0}, int64[1] mm = {4}, int64[1] two = {2}, int64[1] one = {1}, int64[1] m = {-1}> {
        s = Shape(x) b = Gather(s, zero) n = Unsqueeze(b, az) h = Div(mm, two)
        small = Equal(h, one) c = Where(small, one, m) t = Concat<axis = 0>(n, c)
        e = Expand(x, s) y = Reshape(e, t) }"""
    )
    x = tools.pictures(3, (1, 4, 4))

    assert Session(data)(x).equal(x.flatten(1))
