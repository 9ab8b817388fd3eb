"""A Cast to integers and back is a rounding like Floor: gradients pass it, and the file says so."""

import pytest
import torch

from hardening.deployment.parity import prove
from hardening.deployment.session import Session
from hardening.deployment.twin import Twin

BITS = """<ir_version: 10, opset_import: ["" : 20]>
g (float[batch,1,2,2] x) => (float[batch,4] y) <float k = {15.0}>
{ m = Mul(x, k) MADE d = Div(r, k) y = Flatten(d) }"""

CASTS = {
    "bytes": "i = Cast<to = 2>(m) r = Cast<to = 1>(i)",
    "wide integers": "i = Cast<to = 7>(m) r = Cast<to = 1>(i)",
    "integers that two read": "i = Cast<to = 6>(m) p = Cast<to = 1>(i) q = Cast<to = 1>(i) "
    "s = Add(p, q) two = Constant<value_float = 2.0>() r = Div(s, two)",
    "another float between": "i = Cast<to = 6>(m) h = Cast<to = 11>(i) r = Cast<to = 1>(h)",
}


def gradient(data, x):
    points = x.clone().requires_grad_()
    logits = Twin(data)(points)
    return torch.autograd.grad((logits * torch.arange(4)).sum(), points)[0]


@pytest.mark.parametrize("casts", CASTS)
def test_gradients_pass_casts_to_integers_and_back(tools, casts):
    data, x = tools.parsed(BITS.replace("MADE", CASTS[casts])), torch.rand(50, 1, 2, 2)

    assert prove("cast", Twin(data), Session(data), x).max_difference == 0
    torch.testing.assert_close(gradient(data, x), torch.arange(4.0).view(1, 1, 2, 2).expand_as(x))
    assert Session(data).facts().rounds
    assert Session(data).facts().gradients == "bpda"


def test_integers_that_are_computed_with_stay_integers(tools):
    """Halves of them are truncated once more."""
    halved = "i = Cast<to = 7>(m) t = Constant<value = int64 {2}>() h = Div(i, t) r = Cast<to=1>(h)"
    data, x = tools.parsed(BITS.replace("MADE", halved)), torch.rand(50, 1, 2, 2)

    assert prove("integers", Twin(data), Session(data), x).max_difference == 0
    assert Session(data).facts().rounds


def test_a_cast_of_sizes_rounds_nothing(tools):
    sized = """<ir_version: 10, opset_import: ["" : 20]>
    g (float[batch,1,2,2] x) => (float[batch,4] y)
    { s = Shape(x) f = Cast<to = 1>(s) i = Cast<to = 7>(f) e = Expand(x, i) h = Cast<to = 11>(e)
      r = Cast<to = 1>(h) y = Flatten(r) }"""
    data = tools.parsed(sized)

    assert torch.equal(Twin(data)(torch.ones(3, 1, 2, 2)), torch.ones(3, 4))
    assert not Session(data).facts().rounds
