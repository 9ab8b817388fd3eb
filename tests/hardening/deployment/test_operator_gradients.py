"""Gradients of operators, and sums in the order of the runtime."""

import numpy as np
import onnxruntime
import pytest
import torch

from hardening.deployment.graph import read_graph
from hardening.deployment.operators import OPERATORS, meaning

RNG = np.random.default_rng(0)

POSITIVE = (
    torch.rand(2, 4, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) + 0.2
)
SMOOTH = {
    "Conv": ({"auto_pad": "SAME_UPPER", "strides": [2, 2]}, POSITIVE[:, :, :2, :2]),
    "ConvTranspose": ({"strides": [2, 2], "pads": [1, 0, 0, 1]}, POSITIVE[:1].repeat(4, 1, 1, 1)),
    "AveragePool": ({"auto_pad": "SAME_LOWER", "kernel_shape": [2, 2]},),
    "Resize": ({"mode": "cubic"}, None, None, torch.tensor([2, 4, 5, 4])),
    "InstanceNormalization": ({}, POSITIVE[0, :, 0, 0], POSITIVE[0, :, 0, 1]),
    "GroupNormalization": ({"num_groups": 2}, POSITIVE[0, :, 0, 0], POSITIVE[0, :, 0, 1]),
    "LayerNormalization": ({}, POSITIVE[0, 0, 0]),
    "LRN": ({"size": 3, "alpha": 0.5},),
    "LpNormalization": ({"axis": 1},),
    "Einsum": ({"equation": "bchw,bcwk->bhk"}, POSITIVE),
    "Pow": ({}, torch.tensor(1.5, dtype=torch.float64)),
    "DepthToSpace": ({"blocksize": 2},),
    "ReduceLogSumExp": ({"axes": [1]},),
    "ReduceL2": ({"axes": [1, 2]},),
    **{name: ({},) for name in ("Celu", "Erf", "Exp", "Gelu", "Log", "Mish", "Reciprocal",
                                "Sigmoid", "Softmax", "Softplus", "Sqrt", "Tanh")},
}  # fmt: skip


@pytest.mark.parametrize("operator", SMOOTH)
def test_gradients_are_finite_differences(operator):
    attributes, *others = SMOOTH[operator]
    x = POSITIVE.clone().requires_grad_()

    assert torch.autograd.gradcheck(lambda z: OPERATORS[operator](z, *others, **attributes), x)


def test_gradients_of_older_softmaxes_are_finite_differences():
    x = POSITIVE.clone().requires_grad_()

    for name in ("Softmax", "LogSoftmax"):
        assert torch.autograd.gradcheck(lambda z, name=name: meaning(name, 11)(z, axis=2), x)


@pytest.mark.parametrize("size", [(1, 3), (2, 2), (3, 3), (1, 7), (4, 4), (5, 5), (7, 7), (8, 8)])
def test_means_add_in_the_order_of_the_runtime(size, tools):
    """Bit for bit: before a QuantizeLinear the last bit of a mean decides ties."""
    x = RNG.random((5, 13, *size), np.float32)
    model = tools.node_model("ReduceMean", (x, np.array([2, 3])), 20, 1, {"keepdims": 0})
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    graph = read_graph(model)

    (got,) = graph.nodes[0].compute({**graph.constants, "i0": torch.from_numpy(x)})

    np.testing.assert_array_equal(got.numpy(), session.run(None, {"i0": x})[0])


@pytest.mark.parametrize("operator", ["Round", "Floor", "Ceil", "Sign"])
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
