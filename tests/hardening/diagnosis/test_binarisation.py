"""G17: problems with a known solution, an attack that finds it, and one that does not."""

import pytest
import torch

from attacks.apgd import apgd
from hardening.attack import Found, describes
from hardening.data import Labelled
from hardening.threat import ThreatModel

THREATS = [ThreatModel(norm="linf", eps=0.1), ThreatModel(norm="l2", eps=0.5)]
WEIGHT = torch.randn(48, 10, generator=torch.Generator().manual_seed(2))


@pytest.fixture(autouse=True)
def few_problems(monkeypatch):
    monkeypatch.setattr("hardening.diagnosis.binarisation.PROBLEMS", 6)


@pytest.fixture
def images():
    x = 0.3 + 0.4 * torch.rand(8, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    return Labelled(x, torch.zeros(8, dtype=torch.long))


def smooth(x):
    return (x.flatten(1) @ WEIGHT).tanh()


@describes("nothing", norms=("linf", "l2"))
def idle(model, x, y, threat, rng, /):
    return Found(x, torch.full((len(x),), -1))


@pytest.fixture
def solve(examine, images, written):
    def run(model, attack, threat=THREATS[0], **options):
        probes = written.probes._replace(apgd_margin=attack)
        given = {"gates": ["G17"], "probes": probes, "threat": threat} | options
        return examine(model, images, **given)["G17"]

    return run


@pytest.mark.parametrize("threat", THREATS, ids=str)
def test_an_attack_by_true_gradients_solves_all(threat, solve):
    alarm = solve(smooth, apgd, threat)
    assert (alarm.value, alarm.images, alarm.fired) == (0, 6, False)


def test_an_attack_that_stays_where_it_is_solves_none(solve):
    alarm = solve(smooth, idle)
    assert alarm.value == 1
    assert alarm.fired


def test_gradients_that_point_the_other_way_solve_none(solve):
    def crooked(x):
        return 2 * smooth(x).detach() - smooth(x)

    assert solve(crooked, apgd).fired


@pytest.mark.parametrize("threat", THREATS, ids=str)
def test_inner_points_are_of_one_class_and_blind_search_is_no_answer(threat, solve):
    """Otherwise noise would solve the problems, and solving them would say nothing."""
    inside, at_the_border = [], []

    @describes("nothing", norms=("linf", "l2"))
    def spy(model, x, y, threat, rng, /):
        many = x.expand(400, *x.shape[1:])
        points = threat.scaled(0.95).sample(many, rng)
        inside.append(float((model(points).argmax(1) != y).float().mean()))
        steps = threat.ascend(torch.randn(many.shape, generator=rng))
        border = threat.project(many, many + threat.eps * steps)
        at_the_border.append(float((model(border).argmax(1) != y).float().mean()))
        return Found(x, torch.full((1,), -1))

    solve(smooth, spy, threat)
    assert len(inside) == 6
    assert max(inside) < 0.01
    assert max(at_the_border) < 0.1


def test_the_logits_scale_is_fitted_away(solve):
    assert solve(lambda x: 1e4 * smooth(x), apgd).value == 0
    assert solve(lambda x: 1e-4 * smooth(x), apgd).value == 0


def test_deeper_features_can_be_given(solve):
    """Two logits rarely tell the border from the inside; twenty features do."""

    def two(x):
        return smooth(x)[:, :2].mean(1, keepdim=True) * torch.tensor([1.0, -1.0])

    assert solve(two, apgd).value is None
    assert solve(two, apgd, features=smooth).value == 0


def test_a_constant_model_allows_no_problem_and_says_so(solve):
    alarm = solve(lambda x: torch.ones(len(x), 3) + 0 * x.flatten(1)[:, :3], apgd)
    assert alarm.value is None
    assert not alarm.fired
    assert "0 problems" in alarm.detail
