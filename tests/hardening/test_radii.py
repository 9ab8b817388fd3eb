"""The curve: where each image falls, with nothing attacked in vain."""

import torch

from attacks.registry import ATTACKS
from hardening.attack import Found, describes
from hardening.data import Labelled
from hardening.log import Silent
from hardening.radii import Radii, curve
from hardening.threat import ThreatModel

THREAT = ThreatModel(norm="linf", eps=0.1)
INFINITY = float("inf")


def plane(x):
    margin = x.flatten(1).mean(1) - 0.5
    return torch.stack([-margin, margin], dim=1)


def images(*means):
    x = torch.tensor(means)[:, None, None, None].expand(-1, 1, 4, 4).contiguous()
    return Labelled(x, torch.ones(len(means), dtype=torch.long))


def measured(attack, data, factors, fell):
    correct = plane(data.images).argmax(1) == 1
    fell = torch.tensor(fell)
    x_adv = torch.where(fell[:, None, None, None], data.images - 0.1, torch.zeros(1)).clamp(0, 1)
    known = Radii(correct, fell, x_adv)
    return curve(attack, plane, plane, data, known, THREAT, factors, 0, Silent()).tolist()


def test_each_image_falls_at_the_smallest_factor_that_is_enough():
    data = images(0.52, 0.58, 0.68, 0.9, 0.3)
    falls = measured(ATTACKS["apgd"], data, (0.5, 2.0, 10.0), [True, True, False, False, False])
    assert falls == [0.5, 1.0, 2.0, 10.0, 0.0]


def test_an_image_that_no_radius_is_enough_for_stays_unknown():
    falls = measured(ATTACKS["apgd"], images(0.9), (0.5, 2.0), [False])
    assert falls == [INFINITY]


def test_only_what_can_change_is_attacked():
    """Upward what stands; downward what fell at the radius above and not when drawn closer."""
    met = []

    @describes("gradients", norms=("linf",))
    def attack(model, x, y, threat, rng, /):
        met.append((round(threat.eps, 4), len(x)))
        return Found(x, torch.full((len(x),), -1))

    measured(attack, images(0.52, 0.58, 0.68, 0.3), (0.25, 0.5, 2.0), [True, True, False, False])
    assert met == [(0.2, 1), (0.05, 1)]


def test_what_fell_at_eps_is_tried_closer_first():
    @describes("gradients", norms=("linf",))
    def useless(model, x, y, threat, rng, /):
        return Found(x, torch.full((len(x),), -1))

    assert measured(useless, images(0.52), (0.5,), [True]) == [0.5]
