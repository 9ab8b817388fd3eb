"""What operators meant in earlier operator sets, and the ways in which files spell constants."""

import numpy as np
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from hardening.deployment.graph import read_graph
from hardening.deployment.operators.older import OLDER
from hardening.errors import ModelError

RNG = np.random.default_rng(0)
X = RNG.standard_normal((2, 4, 6, 6)).astype(np.float32)
SCALES = np.array([1, 1, 2, 1.5], np.float32)
FOUR = RNG.random(4, np.float32)


def case(operator, opset, *inputs, outputs=1, **attributes):
    return pytest.param(operator, inputs, opset, outputs, attributes, id=f"{operator}-{opset}")


CASES = [
    case("BatchNormalization", 9, X, FOUR, FOUR, FOUR, FOUR, momentum=0.5),
    case("Clip", 9, X, min=-0.5, max=0.5),
    case("Clip", 9, X, max=0.5),
    case("Clip", 10, X),
    case("Dropout", 9, X, ratio=0.3),
    case("Dropout", 11, X),
    case("Gemm", 9, X[0, 0], X[0, 1], X[0, 2]),
    case("GroupNormalization", 18, X, FOUR[:2], FOUR[2:], num_groups=2),
    case("LogSoftmax", 9, X),
    case("LogSoftmax", 12, X, axis=2),
    case("Pad", 9, X, pads=[0, 0, 1, 2, 0, 0, 3, 0], value=0.5),
    case("Pad", 10, X, pads=[0, 0, 1, 2, 0, 0, 3, 0], mode="reflect"),
    case("ReduceMean", 9, X, axes=[2, 3], keepdims=0),
    case("ReduceSum", 11, X, axes=[1]),
    case("ReduceMax", 11, X, axes=[-1]),
    case("Resize", 10, X, SCALES),
    case("Resize", 10, X, SCALES, mode="linear"),
    case("Slice", 9, X, starts=[1, -3], ends=[9, -1], axes=[1, 3]),
    case("Slice", 9, X, starts=[0, 1], ends=[1, 3]),
    case("Softmax", 9, X),
    case("Softmax", 11, X, axis=-1),
    case("Softmax", 12, X, axis=3),
    case("Split", 11, X, outputs=2, axis=1, split=[1, 3]),
    case("Split", 11, X, outputs=3, axis=2),
    case("Squeeze", 9, X[:, :1, :1], axes=[1]),
    case("Squeeze", 11, X[:, :1, :1]),
    case("Unsqueeze", 9, X, axes=[0, 3]),
    case("Upsample", 9, X, SCALES, mode="nearest"),
    case("Upsample", 9, X, SCALES, mode="linear"),
]


@pytest.mark.parametrize(("operator", "inputs", "opset", "outputs", "attributes"), CASES)
def test_an_operator_means_what_its_opset_says(operator, inputs, opset, outputs, attributes, tools):
    model = tools.node_model(operator, inputs, opset, outputs, attributes)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    expected = session.run(None, {"i0": inputs[0]})

    graph = read_graph(model)
    got = graph.nodes[0].compute({**graph.constants, "i0": torch.from_numpy(inputs[0])})

    for ours, theirs in zip(got, expected, strict=True):
        np.testing.assert_allclose(ours.numpy(), theirs, rtol=2e-5, atol=2e-5)


def test_every_earlier_meaning_has_a_case():
    tested = {(case.values[0], case.values[2] < OLDER[case.values[0]][0])
              for case in CASES if case.values[0] in OLDER}  # fmt: skip

    assert {name for name, old in tested if old} == set(OLDER)


def constant(opset=13, **attributes):
    node = helper.make_node("Constant", [], ["c"], **attributes)
    add = helper.make_node("Mul", ["x", "c"], ["y"])
    graph = helper.make_graph(
        [node, add],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2])],
        [helper.make_empty_tensor_value_info("y")],
    )
    return read_graph(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)]))


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ({"value": numpy_helper.from_array(FOUR)}, torch.from_numpy(FOUR)),
        ({"value_float": 0.5}, torch.tensor(0.5)),
        ({"value_floats": [0.5, 2.0]}, torch.tensor([0.5, 2.0])),
        ({"value_int": 3}, torch.tensor(3)),
        ({"value_ints": [3, 4]}, torch.tensor([3, 4])),
        (
            {"value": helper.make_tensor("c", TensorProto.INT4, [3], [-8, 7, 1])},
            torch.tensor([-8, 7, 1], dtype=torch.int8),
        ),
        (
            {"value": helper.make_tensor("c", TensorProto.BFLOAT16, [2], [0.5, -2.0])},
            torch.tensor([0.5, -2.0], dtype=torch.bfloat16),
        ),
    ],
)
def test_constants_of_every_kind_are_read(attributes, expected):
    found = constant(**attributes).constants["c"]

    assert found.dtype == expected.dtype
    assert torch.equal(found, expected)


def test_texts_and_old_operator_sets_are_refused():
    with pytest.raises(ModelError, match="Constant with value_string, expected numbers"):
        constant(value_string=b"x")
    with pytest.raises(ModelError, match="got ONNX opset 8, expected 9 or later"):
        constant(8, value=numpy_helper.from_array(FOUR))


def test_outputs_that_nobody_reads_are_ignored_and_others_refused(tools):
    model = tools.node_model("Dropout", (X,), 9, 2, {})
    with pytest.raises(ModelError, match="operator Dropout with several outputs"):
        read_graph(model)
    del model.graph.output[1]

    assert read_graph(model).nodes[0].outputs == ("y0",)
