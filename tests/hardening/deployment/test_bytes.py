"""Convolutions of bytes on int8 instructions, where this processor has them."""

from copy import deepcopy

import pytest
import torch
from torch import nn

from hardening.deployment import integer
from hardening.deployment.bytes import ByteConvolution, Geometry, available, geometry
from hardening.deployment.session import Session
from hardening.deployment.twin import Twin

needed = pytest.mark.skipif(not available(), reason="no exact int8 convolution here")

SHAPES = [
    Geometry([1, 1], [1, 1], [1, 1], 1),
    Geometry([2, 1], [0, 2], [1, 2], 1),
    Geometry([1, 1], [1, 1], [1, 1], 12),
    Geometry([2, 2], [1, 0], [1, 1], 4),
]


@needed
@pytest.mark.parametrize("zero", [0, 131, 255])
@pytest.mark.parametrize("shape", SHAPES)
def test_sums_are_exact_and_gradients_close(shape, zero):
    rng = torch.Generator().manual_seed(0)
    weight = torch.randint(-128, 128, (24, 12 // shape.group, 3, 3), generator=rng).double()
    x = torch.randint(0, 256, (3, 12, 9, 8), generator=rng).float().requires_grad_()

    def exact(z):
        return nn.functional.conv2d(
            z.double() - zero, weight, None, shape.strides, shape.pads, shape.dilations, shape.group
        )

    found = ByteConvolution(weight, zero, shape)(x)

    assert torch.equal(found.double(), exact(x))
    direction = torch.randn(found.shape, generator=rng)
    (ours,) = torch.autograd.grad((found * direction).sum(), x)
    (theirs,) = torch.autograd.grad((exact(x) * direction).sum(), x)
    torch.testing.assert_close(ours, theirs, atol=0.02 * theirs.abs().max().item(), rtol=0.02)


def test_uneven_pads_are_not_for_these_instructions():
    assert geometry({"pads": [0, 1, 0, 1], "group": 3}) == Geometry([1, 1], [0, 1], [1, 1], 3)
    assert geometry({"pads": [0, 1, 1, 1]}) is None
    assert geometry({"auto_pad": "SAME_UPPER"}) is None


def test_a_twin_is_exact_with_these_instructions_and_without(int8_file, tools, monkeypatch):
    x = torch.cat([tools.pictures(30), tools.edges()])
    fast = Twin(int8_file)
    monkeypatch.setattr(integer, "available", lambda: False)
    slow = Twin(int8_file)
    gradients = []
    for twin in (fast, slow):
        z = x.clone().requires_grad_()
        logits = twin(z)
        assert torch.equal(logits, Session(int8_file)(x))
        gradients.append(torch.autograd.grad(logits.logsumexp(1).sum(), z)[0].flatten(1))

    similar = nn.functional.cosine_similarity(*gradients)
    assert similar.min() > 0.99
    assert (gradients[0].sign() == gradients[1].sign()).float().mean() > 0.98


def test_a_twin_that_has_computed_can_be_copied(int8_file, tools):
    twin, x = Twin(int8_file), tools.pictures(4)
    expected = twin(x)

    assert torch.equal(deepcopy(twin)(x), expected)
