"""Files in the formats of ONNX Runtime's quantizer: integer operators, dynamic and 4-bit ones."""

import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import QuantFormat, QuantType, quantize_dynamic, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from torch import nn

from hardening.deployment.export import export
from hardening.deployment.float_form import float_form
from hardening.deployment.float_operators import FLOATS
from hardening.deployment.native import NATIVE
from hardening.deployment.operators.quantization import KERNELS
from hardening.deployment.parity import compare, prove
from hardening.deployment.quantize import _Reader
from hardening.deployment.quiet import quiet
from hardening.deployment.session import Session
from hardening.deployment.storage import precision
from hardening.deployment.twin import Twin
from hardening.deployment.unsigned import MOVES
from hardening.errors import ModelError, ParityError

SHAPE = (3, 19, 19)
U8, S8 = QuantType.QUInt8, QuantType.QInt8


class Every(nn.Module):
    """One of each operator that the quantizer has an integer form for."""

    def __init__(self):
        super().__init__()
        self.first, self.second = (nn.Conv2d(c, 8, 3, padding=1) for c in (3, 8))
        self.third = nn.Conv2d(16, 12, 3, stride=2)
        self.head, self.last = nn.Linear(12 * 16, 20), nn.Linear(20, 10)

    def forward(self, x):
        x = nn.functional.leaky_relu(self.first(x), 0.1)
        y = torch.sigmoid(self.second(x))
        x = self.third(torch.cat([x * y, x + y], 1))
        x = nn.functional.avg_pool2d(nn.functional.avg_pool2d(x, 2, 2), 1)
        return self.last(torch.relu(self.head(8 * x.flatten(1))))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Path of a float file that is ready for the quantizer."""
    folder = tmp_path_factory.mktemp("native")
    with torch.random.fork_rng(), quiet():
        torch.manual_seed(0)
        (folder / "float.onnx").write_bytes(export(Every().eval(), SHAPE))
        quant_pre_process(folder / "float.onnx", folder / "ready.onnx", skip_symbolic_shape=True)
        ready = onnx.load(folder / "ready.onnx")
        del ready.graph.value_info[:]
        onnx.save(ready, folder / "ready.onnx")
    return folder / "ready.onnx"


@pytest.fixture
def static(prepared, tmp_path, tools):
    """Quantize statically, to integer operators unless told."""

    def quantized(activation, weight, per_channel=False, form=QuantFormat.QOperator):
        with quiet():
            quantize_static(
                prepared,
                tmp_path / "int8.onnx",
                _Reader(tools.pictures(16, SHAPE), onnx.load(prepared)),
                quant_format=form,
                activation_type=activation,
                weight_type=weight,
                per_channel=per_channel,
            )
        return (tmp_path / "int8.onnx").read_bytes()

    return quantized


@pytest.fixture
def dynamic(prepared, tmp_path):
    with quiet():
        quantize_dynamic(prepared, tmp_path / "dynamic.onnx")
    return (tmp_path / "dynamic.onnx").read_bytes()


def gradient(model, x):
    z = x.clone().requires_grad_()
    return torch.autograd.grad(model(z).logsumexp(1).sum(), z)[0]


@pytest.mark.parametrize(
    ("activation", "weight", "per_channel"),
    [(U8, S8, True), (U8, U8, False), (S8, S8, False), (S8, S8, True)],
)
def test_integer_operators_are_the_runtime_s_bit_for_bit(
    static, prepared, tools, activation, weight, per_channel
):
    data = static(activation, weight, per_channel)
    x = torch.cat([tools.pictures(40, SHAPE), tools.edges(SHAPE)])
    operators = {node.op_type for node in onnx.load_model_from_string(data).graph.node}

    assert len(operators & {*KERNELS}) >= 8
    parity = compare(Session(data)(x), Twin(data)(x))
    assert parity.max_difference == 0
    assert parity.scale > 0.1
    ours, theirs = gradient(Twin(data), x), gradient(Twin(prepared.read_bytes()), x)
    assert nn.functional.cosine_similarity(ours.flatten(), theirs.flatten(), 0) > 0.9


def test_signed_activations_are_computed_as_the_runtime_does(static, tools):
    """Some of them are unsigned there, and those that several nodes read are floats in between."""
    data = static(S8, S8, True, QuantFormat.QDQ)
    x = torch.cat([tools.pictures(40, SHAPE), tools.edges(SHAPE)])
    kernels = [type(step.compute).__name__ for step in Twin(data).steps]

    assert compare(Session(data)(x), Twin(data)(x)).max_difference == 0
    assert kernels.count("WeightedSum") == (4 if MOVES else 5)


def test_every_integer_operator_has_a_kernel_and_a_float_form():
    assert {*KERNELS} == {*NATIVE}
    assert {*KERNELS} <= {*FLOATS}


@pytest.mark.parametrize("activation", [U8, S8])
@pytest.mark.parametrize("form", [QuantFormat.QOperator, QuantFormat.QDQ])
def test_the_float_form_computes_the_same_but_for_rounding(static, tools, activation, form):
    """Both of the quantizer's formats of one file have nearly the same one."""
    x = tools.pictures(40, SHAPE)
    files = [static(activation, S8, True, kind) for kind in (form, QuantFormat.QDQ)]
    answers, other = (Session(float_form(data))(x) for data in files)
    model = onnx.load_model_from_string(float_form(files[0]))

    assert precision(model) == "float32"
    assert not {node.op_type for node in model.graph.node} & {*KERNELS, "QuantizeLinear"}
    its = Session(files[0])(x)  # this quantizer rounds logits, too, and cuts them off
    ended = answers.clamp(its.min(), its.max())
    assert compare(ended, its).max_difference < 0.05 * answers.abs().max()
    assert compare(answers, other).max_difference < 0.02 * answers.abs().max()
    ours, theirs = (gradient(Twin(data), x) for data in (float_form(files[0]), files[0]))
    assert nn.functional.cosine_similarity(ours.flatten(), theirs.flatten(), 0) > 0.9


def test_the_float_form_of_a_dynamic_file_does_not_depend_on_the_batch(dynamic, tools):
    x, data = tools.pictures(40, SHAPE), float_form(dynamic)
    session = Session(data)

    prove("float form", Twin(data), session, x)
    assert compare(session(x), Session(dynamic)(x)).max_difference < 0.05 * session(x).abs().max()


def test_dynamic_quantization_is_computed_but_depends_on_the_batch(dynamic, prepared, tools):
    twin, session = Twin(dynamic), Session(dynamic)
    x = tools.pictures(40, SHAPE)

    parity = compare(session(x), twin(x))

    assert parity.max_difference < 0.02 * parity.scale
    assert parity.agreement == 1
    with pytest.raises(ParityError, match="logits at batch size 1 differ"):
        prove("dynamic", twin, session, x)
    theirs = gradient(Twin(prepared.read_bytes()), x)
    assert nn.functional.cosine_similarity(gradient(twin, x).flatten(), theirs.flatten(), 0) > 0.9


HEAD = '<ir_version: 10, opset_import: ["" : 21, "com.microsoft" : 1]>'


@pytest.mark.parametrize("kind", [TensorProto.INT4, TensorProto.UINT4])
@pytest.mark.parametrize("form", ["tensor", "channels", "blocks"])
@pytest.mark.parametrize("operator", ["MatMul", "Gemm", "transposed Gemm"])
def test_products_with_weights_of_4_bits_are_the_runtime_s(kind, form, operator, tools):
    low = -8 if kind == TensorProto.INT4 else 0
    rng = torch.Generator().manual_seed(0)
    turned = operator == "transposed Gemm"
    shape = {"tensor": (), "channels": (5,), "blocks": (5, 3) if turned else (3, 5)}[form]
    scales = 0.01 + 0.01 * torch.rand(shape, generator=rng)
    points = torch.randint(low, low + 16, (scales.numel(),), generator=rng).tolist()
    weights = torch.randint(low, low + 16, (48, 5), generator=rng).flatten().tolist()
    settings = {
        "tensor": {},
        "channels": {"axis": 0 if turned else 1},
        "blocks": {"axis": 1 if turned else 0, "block_size": 16},
    }
    data = tools.parsed(HEAD + "g (float[batch,3,4,4] x) => (float[batch,5] y) {y = Flatten(x)}")
    model = onnx.load_model_from_string(data)
    del model.graph.node[:]
    model.graph.node.extend(
        [
            helper.make_node("Flatten", ["x"], ["f"]),
            helper.make_node("DequantizeLinear", ["w", "s", "z"], ["d"], **settings[form]),
            helper.make_node(
                operator.split()[-1], ["f", "d"], ["y"], **({"transB": 1} if turned else {})
            ),
        ]
    )
    model.graph.initializer.extend(
        [
            helper.make_tensor("w", kind, (5, 48) if turned else (48, 5), weights),
            numpy_helper.from_array(scales.numpy(), "s"),
            helper.make_tensor("z", kind, shape, points),
        ]
    )
    data, x = model.SerializeToString(), tools.pictures(20, (3, 4, 4))

    assert compare(Session(data)(x), Twin(data)(x)).max_difference < 1e-5


QADD = """g (float[batch,1,2,2] x) => (float[batch,4] y)
    <float s = {0.1}, uint8 z = {3}> {
    q = QuantizeLinear(x, s, z)
    scale = ReduceMax<keepdims = 0>(x)
    a = com.microsoft.QLinearAdd(q, SCALE, z, q, s, z, s, z)
    d = DequantizeLinear(a, s, z)
    y = Flatten(d) }"""


def test_a_kernel_with_a_computed_scale_is_refused_by_name(tools):
    Twin(tools.parsed(HEAD + QADD.replace("SCALE", "s")))

    with pytest.raises(
        ModelError, match=r"operator QLinearAdd has a scale 'scale' and .* constants"
    ):
        Twin(tools.parsed(HEAD + QADD.replace("SCALE", "scale")))
