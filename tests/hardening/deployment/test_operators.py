"""Every operator of the table against ONNX Runtime, one node at a time."""

import numpy as np
import onnxruntime
import pytest
import torch
from onnx import numpy_helper

from hardening.deployment.graph import read_graph
from hardening.deployment.operators import OPERATORS
from hardening.deployment.operators.quantization import KERNELS

RNG = np.random.default_rng(0)
X = RNG.standard_normal((2, 4, 6, 6)).astype(np.float32)
POSITIVE = np.abs(X) + np.float32(0.1)
BYTES = RNG.integers(0, 256, X.shape, np.uint8)
ROWS = RNG.standard_normal((3, 8)).astype(np.float32)


def normal(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def signed(*shape):
    return (normal(*shape) * 40).astype(np.int8)


def ints(*values):
    return np.array(values, np.int64)


def number(value):
    return np.array(value, np.float32)


def case(operator, *inputs, opset=20, outputs=1, **attributes):
    return pytest.param(operator, inputs, opset, outputs, attributes, id=operator)


UNARY = {
    "Abs": X, "Ceil": X, "Celu": X, "Cos": X, "Elu": X, "Erf": X, "Exp": X, "Floor": X, "Gelu": X,
    "GlobalAveragePool": X, "GlobalMaxPool": X, "HardSigmoid": X, "HardSwish": X, "Identity": X,
    "LeakyRelu": X, "Log": POSITIVE, "LogSoftmax": ROWS, "Mish": X, "Neg": X, "Not": X > 0,
    "Reciprocal": POSITIVE, "Relu": X, "Round": X * 4, "Selu": X, "Shape": X, "Sigmoid": X,
    "Sign": X, "Sin": X, "Size": X, "Softmax": ROWS, "Softplus": X, "Softsign": X,
    "Sqrt": POSITIVE, "Tanh": X, "ThresholdedRelu": X,
}  # fmt: skip

CASES = [
    *(case(operator, x) for operator, x in UNARY.items()),
    case("Add", X, normal(4, 1, 1)),
    case("And", X > 0, X > 1),
    case("ArgMax", X, axis=1, keepdims=0),
    case("AveragePool", X, kernel_shape=[3, 3], strides=[2, 2], auto_pad="SAME_UPPER"),
    case("AveragePool", X, kernel_shape=[2, 2], auto_pad="SAME_LOWER", count_include_pad=1),
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
    *(
        case("Conv", X, normal(4, 4, k, k), auto_pad=f"SAME_{side}", strides=[s, s])
        for k, s in ((3, 1), (3, 2), (2, 1), (5, 4))
        for side in ("UPPER", "LOWER")
    ),
    case("ConvInteger", BYTES, signed(3, 4, 3, 3), np.array(7, np.uint8), pads=[1, 1, 1, 1]),
    case("ConvTranspose", X, normal(4, 2, 3, 3), normal(2), strides=[2, 2], pads=[1, 0, 0, 1],
         output_padding=[1, 1]),
    case("ConvTranspose", X, normal(4, 2, 3, 3), group=2, dilations=[2, 1]),
    case("DepthToSpace", X, blocksize=2),
    case("DepthToSpace", X, blocksize=2, mode="CRD"),
    case("DequantizeLinear", signed(6, 6), POSITIVE[0, 0, :2],
         np.zeros((2, 6), np.int8), opset=21, axis=0, block_size=3),
    case("DynamicQuantizeLinear", X, outputs=3),
    case("DynamicQuantizeLinear", POSITIVE, outputs=3),
    case("Einsum", X, normal(6, 3), equation="bchw,wk->bckh"),
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
    case("GatherElements", X, ints(*[0, -1] * 72).reshape(2, 4, 6, 3), axis=3),
    case("GatherND", X, ints(0, 1, 1, 3).reshape(2, 2)),
    case("Gelu", X, approximate="tanh"),
    case("Gemm", ROWS, normal(8, 5), normal(5)),
    case("Gemm", ROWS, normal(5, 8), normal(5), transB=1, alpha=0.5, beta=2.0),
    case("Gemm", ROWS, normal(3, 5), transA=1),
    case("Greater", X, normal(4, 1, 1)),
    case("GreaterOrEqual", ints(1, 2, 3), ints(2, 2, 2)),
    case("GroupNormalization", X, normal(4), normal(4), opset=21, num_groups=2),
    case("HardSigmoid", X, alpha=0.3, beta=0.4),
    case("InstanceNormalization", X, normal(4), normal(4)),
    case("LRN", X, size=3, alpha=0.5, bias=2.0),
    case("LayerNormalization", X, normal(6), normal(6)),
    case("LayerNormalization", X, normal(6, 6), axis=2, epsilon=0.1),
    case("LeakyRelu", X, alpha=0.2),
    case("Less", X, normal(4, 1, 1)),
    case("LessOrEqual", ints(1, 2, 3), ints(2, 2, 2)),
    case("LpNormalization", X, axis=1),
    case("LpNormalization", X, p=1),
    case("MatMul", X, normal(6, 3)),
    case("MatMulInteger", BYTES, signed(6, 3), np.array(9, np.uint8), np.array(-2, np.int8)),
    case("MatMulInteger", BYTES, signed(6, 3)),
    case("Mean", X, normal(4, 1, 1), number(2)),
    case("Max", X, normal(4, 1, 1), number(0)),
    case("MaxPool", X, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
    case("MaxPool", X, kernel_shape=[2, 2], pads=[0, 0, 1, 1]),
    case("MaxPool", X, kernel_shape=[2, 2], strides=[4, 4], ceil_mode=1),
    case("MaxPool", X, kernel_shape=[2, 2], dilations=[2, 2]),
    case("MaxPool", X, kernel_shape=[3, 3], strides=[2, 2], auto_pad="SAME_UPPER"),
    case("MaxPool", X, kernel_shape=[3, 3], strides=[4, 4], auto_pad="SAME_LOWER"),
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
    case("ReduceL1", X, ints(1)),
    case("ReduceLogSumExp", X, ints(1)),
    case("ReduceSumSquare", X, ints(1)),
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
    *(
        case("Resize", X, None, None, ints(2, 4, 9, 4), mode="nearest", nearest_mode=nearest,
             coordinate_transformation_mode=coordinates)
        for nearest in ("floor", "ceil", "round_prefer_floor", "round_prefer_ceil")
        for coordinates in ("asymmetric", "half_pixel", "align_corners", "pytorch_half_pixel")
    ),
    case("Resize", X, None, number([1, 1, 1.5, 2]), mode="linear",
         coordinate_transformation_mode="asymmetric"),
    case("Resize", X, None, number([1.5, 2]), mode="linear", axes=[2, 3]),
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
    case("SpaceToDepth", X, blocksize=2),
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
    case("Xor", X > 0, X > 1),
]  # fmt: skip

# Functions whose float32 approximations differ between libraries by a few units in the last place.
LOOSE = 2e-5


@pytest.mark.parametrize(("operator", "inputs", "opset", "outputs", "attributes"), CASES)
def test_an_operator_computes_what_the_runtime_computes(
    operator, inputs, opset, outputs, attributes, tools
):
    model = tools.node_model(operator, inputs, opset, outputs, attributes)
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
    assert {parameters.values[0] for parameters in CASES} == set(OPERATORS) - {*KERNELS}
