"""Integer kernels against ONNX Runtime's, and the bounds that make float32 exact."""

from functools import partial

import numpy as np
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from hardening.deployment.fusion import find_kernel
from hardening.deployment.graph import read_graph
from hardening.deployment.integer import EXACT, Grid, WeightedSum, largest_sum
from hardening.deployment.operators.convolution import convolution
from hardening.deployment.plan import plan
from hardening.deployment.wiring import Wiring

PAIRS = np.stack(np.meshgrid(np.arange(256), np.arange(256)), 0).reshape(2, 1, 1, 1, -1)


def pairwise(operator, scales, zeros, kind, shapes):
    """A QDQ model of two 8-bit inputs and a quantized output."""
    node = helper.make_node
    names = ("a", "b", "c")
    stored = [
        numpy_helper.from_array(np.float32(s), f"s{n}") for n, s in zip(names, scales, strict=True)
    ]
    stored += [numpy_helper.from_array(kind(z), f"z{n}") for n, z in zip(names, zeros, strict=True)]
    nodes = [
        node("DequantizeLinear", ["a", "sa", "za"], ["ad"]),
        node("DequantizeLinear", ["b", "sb", "zb"], ["bd"]),
        node(operator, ["ad", "bd"], ["y"]),
        node("QuantizeLinear", ["y", "sc", "zc"], ["c"]),
    ]
    code = helper.np_dtype_to_tensor_dtype(np.dtype(kind))
    graph = helper.make_graph(
        nodes,
        "pairwise",
        [helper.make_tensor_value_info(n, code, s) for n, s in zip("ab", shapes, strict=True)],
        [helper.make_empty_tensor_value_info("c")],
        stored,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def check_pairwise(operator, a, b, gain, rng):
    """Our kernel and the runtime's on integers `a` and `b`, at random scales and zero points."""
    kind, low = a.dtype, np.iinfo(a.dtype).min
    scales = rng.uniform(0.001, 0.1, 3)
    if operator != "Add":
        scales[2] = scales[0] * scales[1] * rng.uniform(0.3, 1) * gain
    zeros = rng.choice([0, 255, *range(256)], 3) + low
    model = pairwise(operator, scales, zeros, kind.type, (a.shape, b.shape))
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    graph = read_graph(model)
    kernel = find_kernel(graph.nodes[2], Wiring(graph))

    got = kernel.compute(torch.from_numpy(a).float(), torch.from_numpy(b).float())

    np.testing.assert_array_equal(got.numpy(), session.run(None, {"a": a, "b": b})[0])


@pytest.mark.parametrize("operator", ["Add", "Mul"])
@pytest.mark.parametrize("kind", [np.uint8, np.int8])
def test_sums_and_products_of_all_pairs_of_integers_are_the_runtime_s(operator, kind):
    rng = np.random.default_rng(0)
    a, b = (PAIRS + np.iinfo(kind).min).astype(kind)
    for _ in range(40):
        check_pairwise(operator, a, b, 200, rng)


@pytest.mark.parametrize("operator", ["Add", "Mul"])
@pytest.mark.parametrize(
    ("first", "second"),
    [((2, 3, 9, 7), (2, 3, 1, 1)), ((2, 3, 1, 1), (2, 3, 9, 7)), ((2, 3, 9, 7), (3, 1, 1))],
)
def test_operands_broadcast_as_the_runtime_does(operator, first, second):
    rng = np.random.default_rng(1)
    for _ in range(20):
        a, b = (rng.integers(0, 256, shape).astype(np.uint8) for shape in (first, second))
        check_pairwise(operator, a, b, 200, rng)


@pytest.mark.parametrize("inner", [8, 300])
def test_products_of_two_matrices_are_the_runtime_s(inner):
    rng = np.random.default_rng(2)
    for _ in range(10):
        a = rng.integers(0, 256, (2, 9, inner)).astype(np.uint8)
        b = rng.integers(0, 256, (2, inner, 11)).astype(np.uint8)
        check_pairwise("MatMul", a, b, 400 * inner**0.5, rng)


def grid(zero=0.0):
    return Grid(torch.tensor(0.05), zero, 0, 255)


def test_wide_sums_are_split_until_float32_is_exact():
    """A plain float32 convolution of the same integers is wrong."""
    rng = torch.Generator().manual_seed(0)
    weight = torch.randint(100, 128, (2, 600, 3, 3), generator=rng).double()
    x = torch.randint(200, 256, (1, 600, 5, 5), generator=rng).float()
    bias = torch.tensor([12345.0, -77777.0]).double()
    factor = torch.ones(1, 2, 1, 1)

    kernel = WeightedSum(partial(convolution), grid(), weight, bias, factor, None, separable=True)
    exact = nn.functional.conv2d(x.double(), weight, bias)

    assert largest_sum(grid(), weight, bias) > EXACT
    assert kernel.weight.dtype == torch.float32
    assert torch.equal(kernel(x), exact.float())
    assert exact.max() > EXACT
    grouped = WeightedSum(partial(convolution), grid(), weight, bias, factor, None, separable=False)
    assert grouped.weight.dtype == torch.float64
    assert torch.equal(grouped(x), exact.float())


@pytest.mark.parametrize("zero", [0.0, 100.0, 255.0])
def test_no_partial_sum_exceeds_the_bound(zero):
    rng = torch.Generator().manual_seed(1)
    weight = torch.randint(-127, 128, (3, 40), generator=rng).double()
    bound = largest_sum(grid(zero), weight, None)

    for sign in (1, -1):
        # The worst input: every product of one sign.
        worst = torch.where(sign * weight > 0, 255 - zero, -zero)
        total = (sign * (weight * worst)).clamp(min=0).sum(1).max()
        assert total <= bound


def test_gradients_of_split_sums_are_those_of_the_whole():
    weight = torch.full((2, 600, 3, 3), 120.0).double()
    kernel = WeightedSum(
        partial(convolution), grid(), weight, None, torch.ones(1, 2, 1, 1), None, separable=True
    )
    x = torch.full((1, 600, 4, 4), 255.0, requires_grad=True)

    (ours,) = torch.autograd.grad(kernel(x).sum(), x)
    (theirs,) = torch.autograd.grad(nn.functional.conv2d(x, weight.float()).sum(), x)

    assert kernel.width < 600
    torch.testing.assert_close(ours, theirs)


def weighted(operator, weight_type, weight_zero, rng):
    """x -> uint8 -> Conv or Gemm with `weight_type` weights -> uint8: a model, and its input."""
    node = helper.make_node
    shape = (6, 5, 3, 3) if operator == "Conv" else (5, 6)
    info = np.iinfo(weight_type)
    weights = rng.integers(info.min, info.max, shape).astype(weight_type)
    scales = rng.uniform(0.01, 0.02, 6).astype(np.float32)
    per_channel = weight_zero == 0
    axis = 0 if operator == "Conv" else 1
    wide = scales if per_channel else scales[0]
    stored = {
        "sx": np.float32(0.03), "zx": np.uint8(120), "w": weights, "sw": wide,
        "zw": np.full(np.shape(wide), weight_zero, weight_type), "sy": np.float32(0.1),
        "zy": np.uint8(131), "b": rng.integers(-9999, 9999, 6).astype(np.int32),
        "sb": (np.float32(0.03) * wide), "zb": np.zeros(np.shape(wide), np.int32),
    }  # fmt: skip
    along = {"axis": axis} if per_channel else {}
    nodes = [
        node("QuantizeLinear", ["x", "sx", "zx"], ["xq"]),
        node("DequantizeLinear", ["xq", "sx", "zx"], ["xd"]),
        node("DequantizeLinear", ["w", "sw", "zw"], ["wd"], **along),
        node("DequantizeLinear", ["b", "sb", "zb"], ["bd"], **({"axis": 0} if along else {})),
        node(operator, ["xd", "wd", "bd"], ["y"]),
        node("QuantizeLinear", ["y", "sy", "zy"], ["yq"]),
    ]
    x = rng.standard_normal((2, 5, 8, 8) if operator == "Conv" else (64, 5)).astype(np.float32)
    graph = helper.make_graph(
        nodes,
        "weighted",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape)],
        [helper.make_empty_tensor_value_info("yq")],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in stored.items()],
    )
    opset = [helper.make_opsetid("", 20)]
    return helper.make_model(graph, opset_imports=opset, ir_version=10), x


@pytest.mark.parametrize("operator", ["Conv", "Gemm"])
@pytest.mark.parametrize(
    ("weight_type", "weight_zero"), [(np.int8, 0), (np.int8, 5), (np.uint8, 128)]
)
def test_weights_of_either_sign_and_origin_are_the_runtime_s(operator, weight_type, weight_zero):
    rng = np.random.default_rng(3)
    for _ in range(4):
        model, x = weighted(operator, weight_type, weight_zero, rng)
        session = onnxruntime.InferenceSession(
            model.SerializeToString(), providers=["CPUExecutionProvider"]
        )
        graph = read_graph(model)
        values = {**graph.constants, "x": torch.from_numpy(x)}
        (quantized,) = graph.nodes[0].compute(values)
        kernel = find_kernel(graph.nodes[2], Wiring(graph))

        got = kernel.compute(quantized)

        expected = session.run(None, {"x": x})[0]
        np.testing.assert_array_equal(got.numpy(), expected)
        assert len(np.unique(expected)) > 50


def pooled(operator, attributes, shape, grids):
    """A QDQ model: uint8 -> `operator` -> uint8, the grids given as (scale, zero point) twice."""
    node = helper.make_node
    (scale, zero), (scale_out, zero_out) = grids
    stored = {"s": scale, "z": zero, "t": scale_out, "u": zero_out}
    if operator == "ReduceMean":
        stored["axes"] = np.array([2, 3])
    nodes = [
        node("DequantizeLinear", ["x", "s", "z"], ["xd"]),
        node(operator, ["xd", *(["axes"] if "axes" in stored else [])], ["y"], **attributes),
        node("QuantizeLinear", ["y", "t", "u"], ["yq"]),
    ]
    graph = helper.make_graph(
        nodes,
        "pooled",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, shape)],
        [helper.make_empty_tensor_value_info("yq")],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in stored.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


@pytest.mark.parametrize("same_grid", [True, False], ids=["same grid", "two grids"])
@pytest.mark.parametrize("size", [2, 4, 7, 8])
@pytest.mark.parametrize(
    ("operator", "attributes"),
    [
        ("GlobalAveragePool", {}),
        ("ReduceMean", {"keepdims": 0}),
        ("AveragePool", {"kernel_shape": [2, 2], "strides": [2, 2]}),
        ("AveragePool", {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}),
    ],
    ids=["global", "reduce", "windows", "padded windows"],
)
def test_means_of_integers_are_the_runtime_s_even_at_ties(operator, attributes, size, same_grid):
    """On one grid every second mean of four integers lies on a tie."""
    rng = np.random.default_rng(4)
    for _ in range(10):
        scale, zero = np.float32(rng.uniform(0.01, 0.1)), rng.integers(0, 256, dtype=np.uint8)
        other = (scale, zero) if same_grid else (np.float32(scale * 0.7), np.uint8(9))
        model = pooled(operator, attributes, (4, 32, size, size), ((scale, zero), other))
        session = onnxruntime.InferenceSession(
            model.SerializeToString(), providers=["CPUExecutionProvider"]
        )
        x = rng.integers(0, 256, (4, 32, size, size), dtype=np.uint8)
        graph = read_graph(model)
        values = {**graph.constants, "x": torch.from_numpy(x).float()}
        for step in plan(graph):
            outputs = step(*[values[name] if name else None for name in step.inputs])
            values.update(zip(step.outputs, outputs, strict=True))

        np.testing.assert_array_equal(values["yq"].numpy(), session.run(None, {"x": x})[0])


@pytest.mark.parametrize("step", [0.01, 0.1, 0.4])
@pytest.mark.parametrize("operator", ["LeakyRelu", "Sigmoid", "Softmax"])
def test_functions_of_integers_are_the_runtime_s(operator, step):
    rng = np.random.default_rng(5)
    grids = ((np.float32(step), np.uint8(100)), (np.float32(1 / 256), np.uint8(0)))
    model = pooled(operator, {}, (40, 65), grids)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    x = rng.integers(0, 256, (40, 65), dtype=np.uint8)
    graph = read_graph(model)
    kernel = find_kernel(graph.nodes[1], Wiring(graph))
    given = torch.from_numpy(x).float().requires_grad_()

    got = kernel.compute(given)

    np.testing.assert_array_equal(got.detach().numpy(), session.run(None, {"x": x})[0])
    (gradient,) = torch.autograd.grad((got * torch.randn(got.shape)).sum(), given)
    assert gradient.abs().max() > 0
