"""A classifier with a detector: what counts as fooled, and how it is searched for."""

from functools import partial

import pytest
import torch

from attacks.adaptive import expectation, joint, undetected
from attacks.apgd import apgd
from attacks.gradient import draws, look
from attacks.losses import margin
from attacks.pgd import pgd
from attacks.square import square
from hardening.attack import stands
from hardening.deployed import Deployed
from hardening.threat import ThreatModel

ZEROS = torch.zeros(40, dtype=torch.long)
GREY = torch.full((40, 1, 2, 2), 0.5)
THREAT = ThreatModel(eps=0.1)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def two_classes(score):
    return torch.stack([-score, score], dim=1)


def halves(x):
    """Left half of the pixels for the classes, right half for the detector, both about zero."""
    left, right = x.flatten(1).chunk(2, dim=1)
    return 4 * (left.mean(1) - 0.5), 4 * (right.mean(1) - 0.5)


def classifier(x, offset=-100.0):
    return two_classes(halves(x)[0] - 0.1) + offset


def detector(x):
    """Suspects dark right halves, and bright left ones."""
    left, right = halves(x)
    return left - right - 0.1


@pytest.mark.parametrize("offset", [-100.0, 0.0, 100.0])
@pytest.mark.parametrize("threshold", [-0.5, 0.0, 0.5])
def test_the_last_logit_wins_exactly_where_the_detector_rejects(offset, threshold):
    x = torch.rand(300, 1, 2, 2, generator=seeded())
    model = joint(partial(classifier, offset=offset), detector, threshold)
    said, rejected = model(x).argmax(1), detector(x) > threshold
    assert 30 < int(rejected.sum()) < 270
    assert torch.equal(said == 2, rejected)
    assert torch.equal(said[~rejected], classifier(x)[~rejected].argmax(1))


@pytest.mark.parametrize("threshold", [-7.0, 0.0, 7.0])
def test_fooled_means_misclassified_and_let_through(threshold):
    bright, dark = torch.ones(1, 1, 1, 2), torch.zeros(1, 1, 1, 2)
    cases = {
        "right, passes": (torch.cat([dark, bright], 2), True),
        "right, rejected": (torch.cat([dark + 0.5, dark], 2), True),
        "wrong, rejected": (torch.cat([bright, dark], 2), True),
        "wrong, passes": (torch.cat([bright, bright], 2), False),
    }
    model = joint(classifier, lambda x: detector(x) + threshold, threshold)
    for points, expected in cases.values():
        assert bool(stands(model, points, model(points), ZEROS[:1])) == expected


def test_the_parts_that_are_deployed_judge_both_questions():
    wrong = torch.tensor([[0.0, 5.0, 0.0]]).expand(40, 3)
    fine, fooled = (lambda x: two_classes(-x[:, 0, 0, 0])), (lambda x: two_classes(x[:, 0, 0, 0]))
    quiet, loud = (lambda x: -x[:, 0, 0, 0]), (lambda x: x[:, 0, 0, 0])
    for session, alarm, expected in ((fine, quiet, 1), (fooled, quiet, 0), (fooled, loud, 1)):
        model = joint(Deployed(session, fooled), alarm)
        assert (stands(model, GREY, wrong, ZEROS) == bool(expected)).all()


INFORMED = {
    "pgd-margin": partial(pgd, loss="margin"),
    "pgd-ce": pgd,
    "apgd-dlr": partial(apgd, steps=40, loss="dlr"),
    "square": partial(square, queries=200),
}


@pytest.mark.parametrize("attack", INFORMED.values(), ids=INFORMED)
def test_undetected_attacks_find_the_way_past_both(attack):
    """Up in the left half to be misclassified, up in the right half to be let through."""
    attack.facts = getattr(attack, "facts", pgd.facts)
    model, threat = joint(classifier, detector), ThreatModel(eps=0.06)
    x = GREY - 0.01
    x_adv, step = undetected(attack)(model, x, ZEROS, threat, seeded())
    assert (classifier(x_adv).argmax(1) == 1).all()
    assert (detector(x_adv) <= 0).all()
    assert (step > 0).all()


def test_an_attack_that_is_not_told_of_rejection_looks_for_it():
    model, threat = joint(classifier, detector), ThreatModel(eps=0.06)
    step = INFORMED["pgd-margin"](model, GREY - 0.01, ZEROS, threat, seeded()).step
    assert (step == -1).float().mean() > 0.9


def test_undetected_attacks_depend_on_nobody_else(curved):
    model = joint(curved(12, 4), lambda x: x.flatten(1).mean(1) - 0.6)
    x = torch.rand(60, 3, 2, 2, generator=seeded(1))
    y = model(x)[:, :-1].argmax(1)
    attack, threat = undetected(partial(pgd, steps=10)), ThreatModel(eps=0.02)
    among, step = attack(model, x, y, threat, seeded())
    alone = attack(model, x[:9], y[:9], threat, seeded())
    assert torch.equal(alone.x_adv, among[:9])
    assert torch.equal(alone.step, step[:9])
    assert threat.contains(x, among).all()
    fell = step > 0
    assert 5 < int(fell.sum()) < 55
    fooled = ~stands(model, among, model(among), y)
    assert torch.equal(fell | (step == 0), fooled)
    assert len(attack(model, x[:0], y[:0], threat, seeded()).x_adv) == 0


def test_each_loss_of_an_undetected_attack_rises_towards_the_goal():
    """Two ways to get nearer, for a label in the middle: a higher other class, less suspicion."""
    base = torch.tensor([[1.0, 3.0, 2.5, 0.0]])
    seen = []

    def attack(model, x, y, threat, rng):
        seen.append(look(model, x, margin, y)[1])
        return pgd(model, x, y, threat, rng, steps=1)

    attack.facts = pgd.facts
    for change in ([0, 0, 0, 0], [0, 0, 0.1, 0], [0, 0, 0, -0.5], [0, 0, 0, 4], [0, 0.2, 0, 0]):
        logits = base + torch.tensor(change, dtype=torch.float)
        model = lambda x, logits=logits: logits + 0 * x.flatten(1).sum(1, keepdim=True)  # noqa: E731
        undetected(attack)(model, GREY[:1], torch.tensor([1]), THREAT, seeded())
    start, nearer, unsuspected, suspected, surer = (float(loss) for loss in seen)
    assert start == pytest.approx(-0.5)
    assert nearer > start
    assert unsuspected == start  # the label defends more than the detector, here
    assert suspected == pytest.approx(2.5 - 4)
    assert surer < start


def test_a_random_classifier_is_asked_as_often_as_it_asks_for():
    assert draws(joint(expectation(classifier, draws=5), detector)) == 5
    assert draws(joint(classifier, detector)) == 1
