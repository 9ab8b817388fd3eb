"""The classic mistakes of attacks, made on purpose: each breaks a property that the attacks keep.

The mistakes are those found in published libraries. A test that stays green with the mistake in
place would prove nothing; so every property is asserted twice, as it is and with its mistake.
"""

import sys
from functools import partial

import pytest
import torch

import attacks.gradient
import attacks.search
from attacks.apgd import apgd
from attacks.fgsm import fgsm
from attacks.pgd import pgd
from attacks.search import Search
from hardening.balls import BALLS
from hardening.threat import ThreatModel

FEW = {
    "fgsm": fgsm,
    "pgd": partial(pgd, steps=10),
    "apgd": partial(apgd, steps=10),
    "apgd-targeted": partial(apgd, steps=10, loss="dlr-targeted", targets=1),
}
GREY = torch.full((4, 1, 4, 4), 0.5), torch.zeros(4, dtype=torch.long)
LINF = ThreatModel(norm="linf", eps=0.2)
L2 = ThreatModel(norm="l2", eps=0.12)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


# Properties


def numbers_at_the_ends_of_the_range_move_inward(attack, curved, scripted):
    """All have to move by eps: the two classes meet at 0.95 of it."""
    signs = torch.where(torch.arange(48) % 2 == 0, 1.0, -1.0)
    x = (signs < 0).float()[None]

    def model(points):
        lead = (points - x) @ signs - 0.95 * 48 * LINF.eps
        return torch.stack([-lead, lead], 1) * 0.1

    assert (attack(model, x, torch.zeros(1).long(), LINF, seeded()).step > 0).all()


def points_stay_in_the_ball(attack, curved, scripted):
    model = curved(48, 5)
    x = torch.rand(16, 3, 4, 4, generator=seeded(1))
    found = attack(model, x, model(x).argmax(1), L2, seeded())
    assert L2.contains(x, found.x_adv).all()


def a_success_on_the_way_is_kept(attack, curved, scripted):
    """At random starts the label loses; at the border, where the search leads, it wins again."""
    model = fooled(scripted, -0.9, 0.9)
    found = attack(model, *GREY, LINF, seeded())
    assert (found.step > 0).all()
    assert (model(found.x_adv).argmax(1) == 7).all()


def any_mistake_counts(attack, curved, scripted):
    """The search aims at class 1, the label loses to class 7."""
    assert (attack(fooled(scripted, 0.3, 9), *GREY, LINF, seeded()).step > 0).all()


def an_image_fares_the_same_alone(attack, curved, scripted):
    model = curved(48, 5)
    x = torch.rand(12, 3, 4, 4, generator=seeded(1))
    y = model(x).argmax(1)
    among_others = attack(model, x, y, L2, seeded()).x_adv[:1]
    assert torch.equal(attack(model, x[:1], y[:1], L2, seeded()).x_adv, among_others)


def global_randomness_is_left_alone(attack, curved, scripted):
    model = curved(48, 5)
    x = torch.rand(2, 3, 4, 4, generator=seeded(1))
    with torch.random.fork_rng():
        torch.manual_seed(8)
        before = torch.get_rng_state()
        attack(model, x, model(x).argmax(1), L2, seeded())
        assert torch.equal(torch.get_rng_state(), before)


def a_success_at_the_last_point_is_kept(attack, curved, scripted):
    """One step leads from anywhere to the border, and only there the label loses."""
    attack = partial(attack.func, **attack.keywords | {"steps": 1})
    if attack.func is pgd:
        attack = partial(attack, relative_step=2.0)
    assert (attack(fooled(scripted, 0.999, 9), *GREY, LINF, seeded()).step > 0).all()


def fooled(scripted, low, high):
    """Class 7 wins where the brightness has moved, and by a share of eps between these."""
    standing = torch.tensor([0.05, 0.04] + 8 * [0.0])
    fallen = torch.tensor([10.0] + 9 * [-50.0])
    fallen[7] = 10.1

    def script(t):
        inside = (t != 0) & (t / LINF.eps > low) & (t / LINF.eps < high)
        return torch.where(inside[:, None], fallen, standing)

    return scripted(script)


# Mistakes


def clamp_in_the_graph(monkeypatch):
    """Numbers at an end of the range have no gradient."""
    right = attacks.gradient._pass
    edge = 1e-6

    def wrong(model, x, loss, row):
        return right(lambda points: model(points.clamp(edge, 1 - edge)), x, loss, row)

    monkeypatch.setattr(attacks.gradient, "_pass", wrong)


def projection_that_does_nothing(monkeypatch):
    wrong = BALLS["l2"]._replace(project=lambda _x, x_adv, _radius: x_adv.clamp(0, 1))
    monkeypatch.setitem(BALLS, "l2", wrong)


def last_point_returned(monkeypatch):
    def settle(search, points, logits):
        search.result[search.index] = points
        search._step[search.index] = (logits.argmax(1) != search.y).long() * 2 - 1
        return torch.ones_like(search.index, dtype=torch.bool)

    monkeypatch.setattr(Search, "settle", settle)
    monkeypatch.setattr(Search, "offer", lambda *_: None)


def success_is_the_target_only(monkeypatch):
    def stands(_model, _points, logits, _y):
        return logits.argmax(1) != 1

    monkeypatch.setattr(attacks.search, "stands", stands)


def mean_of_the_losses(monkeypatch):
    """And steps in proportion to the gradient, for which its size matters."""
    right = attacks.gradient._pass

    def wrong(model, x, loss, row):
        logits, losses, gradient = right(model, x, loss, row)
        return logits, losses, gradient / len(x)

    monkeypatch.setattr(attacks.gradient, "_pass", wrong)
    monkeypatch.setitem(BALLS, "l2", BALLS["l2"]._replace(ascend=lambda gradient: gradient))


def norm_of_the_batch(monkeypatch):
    wrong = BALLS["l2"]._replace(ascend=lambda gradient: gradient / gradient.norm())
    monkeypatch.setitem(BALLS, "l2", wrong)


def shared_random_numbers(monkeypatch):
    def sample(search, threat):
        return threat.sample(search.x, search._standing_streams()[-1])

    monkeypatch.setattr(Search, "sample", sample)


def global_generator_seeded(monkeypatch):
    right = Search.sample

    def wrong(search, threat):
        torch.manual_seed(0)
        return right(search, threat)

    monkeypatch.setattr(Search, "sample", wrong)


def last_update_never_evaluated(monkeypatch):
    """What the final pass sees is the image as it came."""
    right = attacks.gradient.look

    def wrong(model, x, loss, *context):
        return right(model, GREY[0][: len(x)], loss, *context)

    for name in ("attacks.pgd", "attacks.apgd"):
        monkeypatch.setattr(sys.modules[name], "look", wrong)


BOTH = ("pgd", "apgd")
CASES = [
    (numbers_at_the_ends_of_the_range_move_inward, clamp_in_the_graph, ("fgsm", *BOTH)),
    (points_stay_in_the_ball, projection_that_does_nothing, BOTH),
    (a_success_on_the_way_is_kept, last_point_returned, BOTH),
    (any_mistake_counts, success_is_the_target_only, (*BOTH, "apgd-targeted")),
    (an_image_fares_the_same_alone, mean_of_the_losses, BOTH),
    (an_image_fares_the_same_alone, norm_of_the_batch, BOTH),
    (an_image_fares_the_same_alone, shared_random_numbers, BOTH),
    (global_randomness_is_left_alone, global_generator_seeded, BOTH),
    (a_success_at_the_last_point_is_kept, last_update_never_evaluated, BOTH),
]

each_case = pytest.mark.parametrize(
    ("holds", "make", "attack"),
    [(holds, make, FEW[name]) for holds, make, names in CASES for name in names],
    ids=[f"{make.__name__}-{name}" for _, make, names in CASES for name in names],
)


@each_case
def test_the_attack_keeps_the_property_and_the_mistake_breaks_it(
    holds, make, attack, curved, scripted, monkeypatch
):
    holds(attack, curved, scripted)
    make(monkeypatch)
    with pytest.raises(AssertionError):
        holds(attack, curved, scripted)
