"""Broken defenses on real digits: the careless evaluation says robust, the due attack says not.

Accuracies are shares of 100 test images that the undefended network gets right; eps is 0.15 unless
a test says otherwise.
"""

from functools import partial

import pytest
import torch

from attacks.adaptive import (
    agreement,
    bpda,
    expectation,
    joint,
    rescaled,
    straight_through,
    undetected,
)
from attacks.apgd import apgd
from attacks.fgsm import fgsm
from attacks.gradient import differentiate
from attacks.losses import ce
from attacks.pgd import pgd
from attacks.transfer import transfer
from hardening.attack import stands
from hardening.carried import Carried, Ensemble
from hardening.threat import ThreatModel

THREAT = ThreatModel(eps=0.15)
pgd_ce = partial(pgd, steps=20)
pgd_margin = partial(pgd, steps=20, loss="margin")
apgd_dlr = partial(apgd, steps=30, loss="dlr")


@pytest.fixture
def accuracy(batch):
    """`accuracy(attack, on)`: what the attack on `on` leaves of `of`, `on` itself by default.

    A random `of` is asked many times: the majority counts.
    """
    x, y = batch

    def measure(attack, on, of=None, eps=THREAT.eps, draws=1):
        of = of or on
        rng = torch.Generator().manual_seed(0)
        threat = ThreatModel(eps=eps)
        x_adv = attack(on, x, y, threat, rng).x_adv
        assert threat.contains(x, x_adv).all()
        return float((agreement(of, x_adv, y, draws=draws) > 0.5).float().mean())

    return measure


def test_the_undefended_network_falls(accuracy, dense):
    """Without this, nothing below says anything about a defense."""
    assert accuracy(pgd_ce, dense) < 0.05


def test_distillation_silences_cross_entropy_and_nothing_else(accuracy, distilled, batch):
    assert accuracy(fgsm, distilled) > 0.85
    assert accuracy(pgd_ce, distilled) > 0.85
    assert accuracy(apgd_dlr, distilled) < 0.05
    assert accuracy(pgd_ce, rescaled(distilled)) < 0.05
    silent = (differentiate(distilled, batch[0], ce, batch[1])[2] == 0).flatten(1).all(1)
    assert silent.float().mean() > 0.8


@pytest.mark.parametrize("eps", [0.1, 0.15])
def test_larger_logits_silence_cross_entropy_and_nothing_else(accuracy, dense, eps):
    def louder(x):
        return dense(x) * 1000

    honest = accuracy(pgd_ce, dense, eps=eps)
    assert accuracy(pgd_ce, louder, eps=eps) > 0.9
    assert abs(accuracy(apgd_dlr, louder, eps=eps) - accuracy(apgd_dlr, dense, eps=eps)) <= 0.02
    assert accuracy(pgd_ce, rescaled(louder), eps=eps) <= honest + 0.06


def test_a_codec_without_gradients_is_no_defense(accuracy, behind_jpeg):
    transform, network = behind_jpeg

    def deployed(x):
        return network(transform(x))

    assert accuracy(pgd_ce, deployed) > 0.9
    assert accuracy(pgd_ce, bpda(transform, network), of=deployed) < 0.05


def test_rounding_hides_the_gradient_and_straight_through_finds_it(accuracy, rounded, dense):
    deployed, through = rounded(), rounded(straight_through(torch.round))
    assert accuracy(pgd_ce, deployed, eps=0.1) > 0.9
    found = accuracy(pgd_ce, through, of=deployed, eps=0.1)
    assert abs(found - accuracy(pgd_ce, dense, eps=0.1)) <= 0.05


def test_random_pruning_hides_the_gradient_in_noise(accuracy, pruned, dense):
    left = partial(accuracy, of=pruned, draws=40)
    attack, averaged = partial(pgd, steps=10, loss="margin"), expectation(pruned, draws=10)
    careless = left(pgd_margin, pruned)
    least = min(left(attack, averaged), left(attack, Carried(averaged, dense)))
    assert careless > least + 0.3
    assert abs(least - accuracy(pgd_margin, dense)) <= 0.05


@pytest.mark.slow
def test_a_search_ends_at_points_that_fool_a_random_model_again(pruned, batch):
    """Alone it stops at the first draw that happens to fail, and claims too much."""
    x, y = batch[0][:40], batch[1][:40]

    def luck(model):
        x_adv, step = pgd_margin(model, x, y, THREAT, torch.Generator().manual_seed(0))
        ended = step > 0
        assert ended.float().mean() > 0.8
        return float((agreement(pruned, x_adv[ended], y[ended], draws=100) > 0.5).float().mean())

    assert luck(pruned) > 0.3
    assert luck(expectation(pruned)) <= 0.05


def test_a_detector_that_sees_every_attack_is_walked_around(accuracy, dense, detector, batch):
    x, y = batch
    x_adv = pgd_ce(dense, x, y, THREAT, torch.Generator().manual_seed(0)).x_adv
    clean, attacked = detector(x).detach(), detector(x_adv).detach()
    assert (attacked[:, None] > clean[None]).float().mean() > 0.95  # area under the curve
    both = joint(dense, detector, float(clean.quantile(0.95)))
    rejected = 1 - float(stands(both, x, both(x).detach(), y).float().mean())
    assert rejected == 0  # rejecting a clean image is no success of an attack
    assert accuracy(pgd_ce, dense, of=both) > 0.95
    assert accuracy(undetected(partial(apgd, steps=30, loss="margin")), both) < 0.5


# across models


def test_a_relative_carries_over_better_than_noise_and_all_of_them_better_still(
    accuracy, dense, relatives
):
    def blind(x):
        """A surrogate that knows nothing: its gradient is noise that stays the same."""
        noise = torch.randn(10, 256, generator=torch.Generator().manual_seed(0))
        return x.flatten(1) @ noise.T

    nobody = accuracy(transfer, Carried(dense, blind), of=dense)
    alone = [accuracy(transfer, Carried(dense, one), of=dense) for one in relatives]
    together = accuracy(transfer, Carried(dense, Ensemble(relatives)), of=dense)
    itself = accuracy(transfer, Carried(dense, dense), of=dense)
    assert max(alone) < nobody - 0.4
    assert together < sum(alone) / len(alone)
    assert itself < 0.05


def test_whoever_stops_at_the_border_of_the_surrogate_finds_little(accuracy, dense, relatives):
    for surrogate in relatives:
        stopped = accuracy(pgd_ce, surrogate, of=dense)
        assert stopped > accuracy(pgd_ce, Carried(dense, surrogate), of=dense) + 0.2


def test_a_surrogate_with_silent_cross_entropy_carries_by_its_margin(accuracy, dense, distilled):
    carried = Carried(dense, distilled)
    assert accuracy(partial(transfer, loss="ce"), carried, of=dense) > 0.7
    assert accuracy(transfer, carried, of=dense) < 0.5
