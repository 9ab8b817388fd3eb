"""Every operator of the table against ONNX Runtime, one node at a time."""

import numpy as np
import onnxruntime
import pytest
import torch
from onnx import helper, numpy_helper

from hardening.deployment.graph import read_graph
from hardening.deployment.operators import OPERATORS

RNG = np.random.default_rng(0)
X = RNG.standard_normal((2, 4, 6, 6)).astype(np.float32)
POSITIVE = np.abs(X) + np.float32(0.1)
ROWS = RNG.standard_normal((3, 8)).astype(np.float32)


def normal(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def ints(*values):
    return np.array(values, np.int64)


def number(value):
    return np.array(value, np.float32)


def case(operator, *inputs, opset=20, outputs=1, **attributes):
    return pytest.param(operator, inputs, opset, outputs, attributes, id=operator)


UNARY = {
    "Abs": X, "Ceil": X, "Elu": X, "Erf": X, "Exp": X, "Floor": X, "Gelu": X,
    "GlobalAveragePool": X, "GlobalMaxPool": X, "HardSigmoid": X, "HardSwish": X, "Identity": X,
    "LeakyRelu": X, "Log": POSITIVE, "LogSoftmax": ROWS, "Mish": X, "Neg": X, "Not": X > 0,
    "Reciprocal": POSITIVE, "Relu": X, "Round": X * 4, "Selu": X, "Shape": X, "Sigmoid": X,
    "Softmax": ROWS, "Softplus": X, "Sqrt": POSITIVE, "Tanh": X,
}  # fmt: skip

CASES = [
    *(case(operator, x) for operator, x in UNARY.items()),
    case("Add", X, normal(4, 1, 1)),
    case("And", X > 0, X > 1),
    case("AveragePool", X, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
    case("AveragePool", X, kernel_shape=[2, 2], pads=[0, 1, 0, 0], count_include_pad=1),
    case("AveragePool", X, kernel_shape=[2, 2], pads=[0, 0, 1, 1]),
    case("AveragePool", X, kernel_shape=[2, 2], ceil_mode=1, strides=[3, 3]),
    case("BatchNormalization", X, normal(4), normal(4), normal(4), POSITIVE[0, :, 0, 0]),
    case("Cast", X, to=7),
    case("Clip", X, number(-0.5), number(0.5)),
    case("Clip", X, None, number(0.5)),
    case("Clip", X, number(0.1)),
    case("Concat", X, normal(2, 3, 6, 6), axis=1),
    case("ConstantOfShape", ints(2, 3), value=numpy_helper.from_array(np.array([7], np.int64))),
    case("ConstantOfShape", ints(2, 3)),
    case("Conv", X, normal(8, 4, 3, 3), normal(8), pads=[1, 1, 1, 1], strides=[2, 2]),
    case("Conv", X, normal(8, 2, 3, 3), pads=[0, 1, 2, 1], group=2, dilations=[2, 1]),
    case("Conv", X[:, :, 0], normal(5, 4, 3), normal(5), pads=[1, 1]),
    case("Conv", X, normal(8, 4, 3, 3), auto_pad="VALID", kernel_shape=[3, 3]),
    case("DequantizeLinear", (X * 20).astype(np.int8), number(0.1), np.array(3, np.int8)),
    case("DequantizeLinear", (POSITIVE * 9).astype(np.uint8), number(0.1)),
    case("DequantizeLinear", (X * 9).astype(np.int8), POSITIVE[0, :, 0, 0], np.zeros(4, np.int8)),
    case("Div", X, POSITIVE),
    case("Div", ints(7, -7, 9), ints(2, 2, -4)),
    case("Dropout", X),
    case("Elu", X, alpha=0.3),
    case("Equal", ints(1, 2, 3), ints(1, 0, 3)),
    case("Expand", ROWS, ints(2, 1, 8)),
    case("Flatten", X, axis=2),
    case("Flatten", X),
    case("Gather", X, ints(0, -1, 2), axis=1),
    case("Gather", X, np.array(-1), axis=2),
    case("GatherND", X, ints(0, 1, 1, 3).reshape(2, 2)),
    case("Gelu", X, approximate="tanh"),
    case("Gemm", ROWS, normal(8, 5), normal(5)),
    case("Gemm", ROWS, normal(5, 8), normal(5), transB=1, alpha=0.5, beta=2.0),
    case("Gemm", ROWS, normal(3, 5), transA=1),
    case("Greater", X, normal(4, 1, 1)),
    case("GreaterOrEqual", ints(1, 2, 3), ints(2, 2, 2)),
    case("HardSigmoid", X, alpha=0.3, beta=0.4),
    case("LayerNormalization", X, normal(6), normal(6)),
    case("LayerNormalization", X, normal(6, 6), axis=2, epsilon=0.1),
    case("LeakyRelu", X, alpha=0.2),
    case("Less", X, normal(4, 1, 1)),
    case("LessOrEqual", ints(1, 2, 3), ints(2, 2, 2)),
    case("MatMul", X, normal(6, 3)),
    case("Max", X, normal(4, 1, 1), number(0)),
    case("MaxPool", X, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
    case("MaxPool", X, kernel_shape=[2, 2], pads=[0, 0, 1, 1]),
    case("MaxPool", X, kernel_shape=[2, 2], strides=[4, 4], ceil_mode=1),
    case("MaxPool", X, kernel_shape=[2, 2], dilations=[2, 2]),
    case("Min", X, normal(4, 1, 1)),
    case("Mul", X, normal(4, 1, 1)),
    case("Or", X > 0, X > 1),
    case("PRelu", X, normal(4, 1, 1)),
    case("Pad", X, ints(0, 0, 1, 2, 0, 0, 3, 0), number(5)),
    case("Pad", X, ints(1, 2, 0, 1), None, ints(3, 2)),
    case("Pad", X, ints(0, 0, 1, 2, 0, 0, 3, 0), mode="reflect"),
    case("Pad", X, ints(0, 0, 1, 2, 0, 0, 3, 0), mode="edge"),
    case("Pow", POSITIVE, number(1.5)),
    case("QuantizeLinear", X * 9, number(0.1), np.array(128, np.uint8)),
    case("QuantizeLinear", X, number(0.01)),
    case("QuantizeLinear", X, POSITIVE[0, :, 0, 0] / 50, np.zeros(4, np.int8), axis=1),
    case("Range", np.array(2), np.array(11), np.array(3)),
    case("ReduceL2", X, ints(1)),
    case("ReduceMax", X, ints(2, 3), keepdims=0),
    case("ReduceMean", X, ints(2, 3), keepdims=0),
    case("ReduceMean", X, ints(-1, -2)),
    case("ReduceMean", X, ints(1)),
    case("ReduceMean", X, opset=13, axes=[2, 3]),
    case("ReduceMean", X, noop_with_empty_axes=1),
    case("ReduceMean", X),
    case("ReduceMin", X, ints(2, 3)),
    case("ReduceSum", X, ints(3), keepdims=0),
    case("Reshape", X, ints(0, -1)),
    case("Reshape", X, ints(2, 4, 36), allowzero=1),
    case("Resize", X, None, None, ints(2, 4, 9, 12), mode="linear"),
    case("Resize", X, None, number([1, 1, 2, 2]), mode="cubic"),
    case("Resize", X, None, number([1, 1, 2, 2]), mode="linear",
         coordinate_transformation_mode="align_corners"),
    case("Resize", X, None, number([1, 1, 2, 3]), mode="nearest", nearest_mode="floor",
         coordinate_transformation_mode="asymmetric"),
    case("ScatterND", X, ints(0, 1, 1, 3).reshape(2, 2), normal(2, 6, 6)),
    case("Selu", X, alpha=1.2, gamma=0.7),
    case("Shape", X, start=1, end=3),
    case("Slice", X, ints(1), ints(2**62), ints(2)),
    case("Slice", X, ints(-1, 0), ints(-100, 4), ints(3, 1), ints(-1, 2)),
    case("Slice", X, ints(1, 2), ints(2, -1)),
    case("Softmax", X, axis=1),
    case("Split", X, ints(1, 3), axis=1, outputs=2),
    case("Split", X[:, :, :5], axis=2, num_outputs=2, outputs=2),
    case("Split", X, axis=2, outputs=2, opset=13),
    case("Squeeze", X[:, :1, :1], ints(1, 2)),
    case("Squeeze", X[:, :1, :1]),
    case("Sub", X, normal(4, 1, 1)),
    case("Sum", X, normal(4, 1, 1), number(2)),
    case("Tile", ROWS, ints(2, 3)),
    case("Transpose", X, perm=[0, 2, 3, 1]),
    case("Transpose", X),
    case("Unsqueeze", X, ints(0, -1)),
    case("Where", X > 0, X, number(0)),
]  # fmt: skip

# Functions whose float32 approximations differ between libraries by a few units in the last place.
LOOSE = 2e-5


def node_model(operator, inputs, opset, outputs, attributes):
    """One node; its first input is given at run time, the others are stored."""
    given = inputs[0]
    names = [None if value is None else f"i{place}" for place, value in enumerate(inputs)]
    results = [f"y{place}" for place in range(outputs)]
    node = helper.make_node(operator, [name or "" for name in names], results, **attributes)
    kind = helper.np_dtype_to_tensor_dtype(given.dtype)
    graph = helper.make_graph(
        [node],
        "node",
        [helper.make_tensor_value_info("i0", kind, given.shape)],
        [helper.make_empty_tensor_value_info(name) for name in results],
        [
            numpy_helper.from_array(np.asarray(value), name)
            for name, value in zip(names[1:], inputs[1:], strict=True)
            if name
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


@pytest.mark.parametrize(("operator", "inputs", "opset", "outputs", "attributes"), CASES)
def test_an_operator_computes_what_the_runtime_computes(
    operator, inputs, opset, outputs, attributes
):
    model = node_model(operator, inputs, opset, outputs, attributes)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    expected = session.run(None, {"i0": inputs[0]})

    graph = read_graph(model)
    got = graph.nodes[0].compute({**graph.constants, "i0": torch.from_numpy(inputs[0])})

    assert len(got) == len(expected) == outputs
    for ours, theirs in zip(got, expected, strict=True):
        assert tuple(ours.shape) == theirs.shape
        if theirs.dtype == np.float32:
            assert ours.dtype == torch.float32
        np.testing.assert_allclose(
            ours.numpy().astype(np.float64), theirs.astype(np.float64), rtol=LOOSE, atol=LOOSE
        )


def test_every_operator_has_a_case():
    assert {parameters.values[0] for parameters in CASES} == set(OPERATORS)


@pytest.mark.parametrize("size", [(1, 3), (2, 2), (3, 3), (1, 7), (4, 4), (5, 5), (7, 7), (8, 8)])
def test_means_add_in_the_order_of_the_runtime(size):
    """Bit for bit: before a QuantizeLinear the last bit of a mean decides ties."""
    x = RNG.random((5, 13, *size), np.float32)
    model = node_model("ReduceMean", (x, ints(2, 3)), 20, 1, {"keepdims": 0})
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    graph = read_graph(model)

    (got,) = graph.nodes[0].compute({**graph.constants, "i0": torch.from_numpy(x)})

    np.testing.assert_array_equal(got.numpy(), session.run(None, {"i0": x})[0])


@pytest.mark.parametrize("operator", ["Round", "Floor", "Ceil"])
def test_gradients_pass_every_staircase(operator):
    x = torch.linspace(-2, 2, 9, requires_grad=True)

    (gradient,) = torch.autograd.grad((OPERATORS[operator](x) * torch.arange(9)).sum(), x)

    assert torch.equal(gradient, torch.arange(9.0))


@pytest.mark.parametrize("axes", [[2, 3], [3], [1, 2, 3], [1], [0, 1, 2, 3]])
def test_gradients_of_sums_and_means_are_torch_s(axes):
    x = torch.randn(2, 3, 5, 7, generator=torch.Generator().manual_seed(0), requires_grad=True)
    for operator, function in (("ReduceMean", torch.mean), ("ReduceSum", torch.sum)):
        ours = OPERATORS[operator](x, torch.tensor(axes), keepdims=0)
        theirs = function(x, axes)

        torch.testing.assert_close(ours, theirs)
        torch.testing.assert_close(
            torch.autograd.grad((ours**2).sum(), x), torch.autograd.grad((theirs**2).sum(), x)
        )
