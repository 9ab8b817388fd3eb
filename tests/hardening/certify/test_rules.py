"""Each operator's box holds what it computes in float32, and is hardly larger."""

from itertools import product

import pytest
import torch

from hardening.certify.rules import RULES, Box, bound, gamma
from hardening.deployment.graph import Node
from hardening.deployment.operators import OPERATORS

NUMBERS = torch.Generator().manual_seed(0)


def normal(*shape):
    return torch.randn(shape, generator=NUMBERS)


def case(operator, *inputs, **attributes):
    """A node and its inputs; a `box` among them stands for the computed one."""
    return pytest.param(operator, inputs, attributes, id=f"{operator}-{len(inputs)}")


VECTOR, MAP = (1, 6), (1, 2, 2, 2)

CASES = [
    case("Gemm", VECTOR, normal(6, 3), normal(3), alpha=-1.5, beta=0.5),
    case("Gemm", VECTOR, normal(3, 6), transB=1),
    case("MatMul", VECTOR, normal(6, 3)),
    case("Conv", MAP, normal(3, 2, 2, 2), normal(3), pads=[1, 1, 1, 1]),
    case("Conv", MAP, normal(4, 1, 2, 2), group=2),
    case("BatchNormalization", MAP, normal(2), normal(2), normal(2), normal(2).exp()),
    case("Add", VECTOR, normal(6)),
    case("Sub", VECTOR, normal(6)),
    case("Sub", normal(6), VECTOR),
    case("Mul", VECTOR, normal(6)),
    case("Mul", normal(6), VECTOR),
    case("Div", VECTOR, normal(6)),
    case("Neg", VECTOR),
    case("Sum", VECTOR, normal(6), normal(6)),
    case("Relu", VECTOR),
    case("LeakyRelu", VECTOR, alpha=0.3),
    case("Sigmoid", VECTOR),
    case("Tanh", VECTOR),
    case("Clip", VECTOR, torch.tensor(-0.3), torch.tensor(0.4)),
    case("MaxPool", MAP, kernel_shape=[2, 2]),
    case("GlobalMaxPool", MAP),
    case("AveragePool", MAP, kernel_shape=[2, 2], pads=[1, 0, 0, 0]),
    case("GlobalAveragePool", MAP),
    case("ReduceMean", MAP, torch.tensor([2, 3])),
    case("ReduceSum", VECTOR, torch.tensor([1])),
    case("ReduceMax", VECTOR, torch.tensor([1])),
    case("ReduceMin", VECTOR, torch.tensor([1])),
    case("Identity", VECTOR),
    case("Dropout", VECTOR),
    case("Flatten", MAP),
    case("Reshape", MAP, torch.tensor([1, -1])),
    case("Squeeze", VECTOR, torch.tensor([0])),
    case("Unsqueeze", VECTOR, torch.tensor([1])),
    case("Transpose", MAP, perm=[0, 2, 3, 1]),
    case("Expand", VECTOR, torch.tensor([2, 6])),
    case("Concat", VECTOR, normal(1, 2), axis=1),
    case("Slice", VECTOR, torch.tensor([1]), torch.tensor([4]), torch.tensor([1])),
    case("Gather", VECTOR, torch.tensor([2, 0]), axis=1),
    case("Pad", VECTOR, torch.tensor([0, 1, 0, 1]), torch.tensor(0.7)),
]


def test_every_rule_has_a_case():
    assert {parameter.values[0] for parameter in CASES} == {*RULES}


@pytest.mark.parametrize(("operator", "inputs", "attributes"), CASES)
def test_the_box_is_the_hull_of_the_results_at_all_corners(operator, inputs, attributes):
    """Single operators of this kind take their extremes at corners, so the hull is known."""
    inputs = list(inputs)
    where = next(i for i, value in enumerate(inputs) if isinstance(value, tuple))
    centre = normal(*inputs[where])
    radius = 0.5 * torch.rand(inputs[where], generator=NUMBERS)
    box = Box((centre - radius).double(), (centre + radius).double())
    node = Node(operator, ("x",) * len(inputs), ("y",), attributes, OPERATORS[operator])
    values = [
        value.double() if isinstance(value, torch.Tensor) and value.is_floating_point() else value
        for value in inputs
    ]
    values[where] = box
    found = bound(node, values)
    results = []
    for signs in product([0, 1], repeat=centre.numel()):
        at = torch.tensor(signs).view(centre.shape).bool()
        inputs[where] = torch.where(at, box.upper, box.lower).float()
        results.append(OPERATORS[operator](*inputs, **attributes).double())
    hull = torch.stack(results)
    assert (found.lower <= hull.amin(0)).all()
    assert (found.upper >= hull.amax(0)).all()
    torch.testing.assert_close(found.lower, hull.amin(0), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(found.upper, hull.amax(0), rtol=1e-3, atol=1e-3)


def test_two_computed_tensors_are_added_and_subtracted_as_intervals():
    first = Box(torch.tensor([1.0, -1.0]).double(), torch.tensor([2.0, 1.0]).double())
    second = Box(torch.tensor([-3.0, 0.0]).double(), torch.tensor([5.0, 0.5]).double())
    total = bound(Node("Add", ("a", "b"), ("c",), {}, OPERATORS["Add"]), [first, second])
    torch.testing.assert_close(total.lower, torch.tensor([-2.0, -1.0]).double(), atol=1e-3, rtol=0)
    torch.testing.assert_close(total.upper, torch.tensor([7.0, 1.5]).double(), atol=1e-3, rtol=0)
    gap = bound(Node("Sub", ("a", "b"), ("c",), {}, OPERATORS["Sub"]), [first, second])
    torch.testing.assert_close(gap.lower, torch.tensor([-4.0, -1.5]).double(), atol=1e-3, rtol=0)
    torch.testing.assert_close(gap.upper, torch.tensor([5.0, 1.0]).double(), atol=1e-3, rtol=0)


def test_a_float32_sum_in_any_order_stays_within_the_rounding_granted():
    """A point box: all of its width is rounding."""
    weight, x = normal(1, 400) * 100, normal(1, 400)
    point = Box(x.double(), x.double())
    found = bound(
        Node("Gemm", ("x", "w"), ("y",), {"transB": 1}, OPERATORS["Gemm"]), [point, weight.double()]
    )
    exact = float((weight.double() * x.double()).sum())
    assert found.lower.item() < exact < found.upper.item()
    for _ in range(100):
        total = torch.zeros(())
        for i in torch.randperm(400, generator=NUMBERS).tolist():
            total = total + weight[0, i] * x[0, i]
        assert found.lower.item() <= float(total) <= found.upper.item()
    size = float((weight * x).abs().sum())
    assert found.upper.item() - found.lower.item() == pytest.approx(2 * gamma(400) * size, rel=1e-6)


def test_rounding_grows_with_the_terms():
    assert gamma(1) < gamma(100) < gamma(10_000)
    assert gamma(100) >= 100 * 2.0**-24
