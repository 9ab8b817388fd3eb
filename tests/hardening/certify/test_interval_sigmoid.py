"""A last Sigmoid may tie where its logits part: nothing is certified that it does not decide."""

import pytest

from hardening.certify.interval import interval
from hardening.deployment.session import Session
from hardening.evaluation import all_stand
from hardening.log import Silent
from hardening.threat import ThreatModel

EPS = 0.01


@pytest.fixture
def certified(linear, rng):
    def run(file):
        threat = ThreatModel(norm="linf", eps=EPS)
        return interval(file, linear[2], threat, rng, Silent()).certified

    return run


def built(files, linear, times):
    """The linear model with larger logits, behind a Sigmoid or as they are."""
    weight, bias, _ = linear
    nodes = [("Flatten", "input", "flat", {}), ("Gemm", "flat weight bias", "z", {"transB": 1})]
    constants = {"weight": times * weight.numpy(), "bias": times * bias.numpy() + times / 10}
    bare = [*nodes, ("Identity", "z", "logits", {})]
    squashed = [*nodes, ("Sigmoid", "z", "logits", {})]
    return [files.build((3, 2, 2), 3, form, **constants) for form in (bare, squashed)]


def test_a_sigmoid_that_does_not_saturate_costs_no_more_than_the_bounds_of_its_logits(
    files, linear, certified
):
    bare, squashed = (certified(file) for file in built(files, linear, 1))
    assert 0 < sum(squashed) <= sum(bare)
    assert all(a or not b for a, b in zip(bare, squashed, strict=True))


def test_what_a_saturated_sigmoid_ties_is_not_certified(files, linear, certified):
    bare, squashed = built(files, linear, 1000)
    images = linear[2]
    decided = all_stand(Session(squashed), images).tolist()

    assert sum(certified(bare)) > sum(decided)
    assert all(a or not b for a, b in zip(decided, certified(squashed), strict=True))
