"""The schedule of the paper, and what it buys."""

from functools import partial

import pytest
import torch

from attacks import apgd, pgd
from attacks.apgd import _begin, _halve_where_stuck, _move, _observe, _windows
from hardening.threat import ThreatModel


def test_windows_are_the_papers():
    assert list(_windows(100)) == [22, 41, 57, 70, 80, 87, 93, 99]
    assert sum(_windows(100).values()) == 99


def test_a_stuck_image_goes_back_to_its_best_point_with_half_the_step():
    """The first image's loss rises once and falls, the second's keeps rising."""
    threat = ThreatModel(norm="linf", eps=0.1)
    run = _begin(torch.zeros(2, 3), threat)
    for i, losses in enumerate([[0.0, 0.0], [2.0, 1.0], [1.0, 2.0]]):
        points = torch.full((2, 3), float(i))
        run = _observe(run._replace(points=points), torch.tensor(losses), 10 * points)
    judged = _halve_where_stuck(run, 1.5)
    assert judged.points[:, 0].tolist() == [1.0, 2.0]
    assert judged.gradient[:, 0].tolist() == [10.0, 20.0]
    assert judged.loss.tolist() == [2.0, 2.0]
    assert judged.step.tolist() == pytest.approx([0.1, 0.2])
    assert judged.rises.tolist() == [0, 0]


def test_a_window_without_a_new_best_halves_unless_the_last_one_did():
    threat = ThreatModel(norm="linf", eps=0.1)
    run = _observe(_begin(torch.zeros(1, 3), threat), torch.tensor([1.0]), torch.ones(1, 3))
    kept = _halve_where_stuck(run, 0.0)
    assert kept.step.item() == pytest.approx(0.2)
    halved = _halve_where_stuck(kept, 0.0)
    assert halved.step.item() == pytest.approx(0.1)
    assert _halve_where_stuck(halved, 0.0).step.item() == pytest.approx(0.1)


def test_a_step_is_a_mean_of_the_ascent_and_the_last_step():
    threat = ThreatModel(norm="linf", eps=1.0)
    run = _begin(torch.full((1, 2), 0.5), threat)._replace(
        previous=torch.tensor([[0.4, 0.5]]),
        gradient=torch.tensor([[-1.0, 1.0]]),
        step=torch.tensor([0.2]),
    )
    moved = _move(run, torch.full((1, 2), 0.5), threat, 0.75)
    # 0.75 of the step of 0.2, and 0.25 of the last one: + 0.1 and 0.
    assert moved.points[0].tolist() == pytest.approx([0.5 - 0.15 + 0.025, 0.5 + 0.15])
    assert torch.equal(moved.previous, run.points)


def test_the_first_step_is_plain_and_the_next_have_momentum():
    """One pixel with its peak in the middle: from either border the ascent leads to the other."""
    seen = []

    def peaked(x):
        seen.append(x.detach())
        margin = -0.01 - (x - 0.5).square().flatten(1).sum(1)
        return torch.stack([-margin / 2, margin / 2], 1)

    threat = ThreatModel(norm="linf", eps=0.1)
    x, y = torch.full((1, 1), 0.5), torch.zeros(1, dtype=torch.long)
    apgd(peaked, x, y, threat, torch.Generator(), steps=10)
    start, first, second = (float(point) for point in seen[1:4])
    border = 0.4 if start > 0.5 else 0.6
    assert first == pytest.approx(border)
    opposite = 1 - border
    expected = first + 0.75 * (opposite - first) + 0.25 * (first - start)
    assert second == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("steps", range(1, 12))
def test_short_runs_have_a_schedule_too(steps, curved, images):
    model = curved(48, 5)
    x, y = images(model, 8, 3, 4, 4)
    threat = ThreatModel(norm="l2", eps=0.5)
    x_adv = apgd(model, x, y, threat, torch.Generator(), steps=steps)
    assert (model(x_adv).argmax(1) != y).any()


def test_halved_steps_reach_a_peak_that_constant_steps_overshoot():
    """The margin is highest, and still negative, at one point inside the ball."""
    target = torch.rand(1, 1, 4, 4, generator=torch.Generator().manual_seed(2)) * 0.1 + 0.45

    def peaked(x):
        margin = -0.01 - (x - target).square().flatten(1).sum(1)
        return torch.stack([-margin / 2, margin / 2], 1)

    x, y = torch.full((3, 1, 4, 4), 0.5), torch.zeros(3, dtype=torch.long)
    threat = ThreatModel(norm="linf", eps=0.1)
    reached = [
        (attack(peaked, x, y, threat, torch.Generator()) - target).abs().amax()
        for attack in (apgd, partial(pgd, steps=100, relative_step=0.5))
    ]
    assert reached[0] < 0.2 * reached[1]


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_dlr_does_not_see_the_scale_of_the_logits(norm, curved, images):
    threat = ThreatModel(norm=norm, eps={"linf": 0.03, "l2": 0.2}[norm])
    x, y = images(curved(48, 5), 32, 3, 4, 4)
    once, thousandfold, power_of_two = (
        apgd(curved(48, 5, scale), x, y, threat, torch.Generator(), loss="dlr")
        for scale in (1.0, 1000.0, 1024.0)
    )
    plain = curved(48, 5)
    survives = plain(once).argmax(1) == y
    assert 0 < survives.sum() < len(y)
    assert torch.equal(plain(thousandfold).argmax(1) == y, survives)
    assert torch.equal(once, power_of_two)


def test_cross_entropy_goes_blind_where_dlr_does_not(curved, images):
    """Why the quick profile runs both: logits x1000 leave cross entropy without a gradient."""
    model = curved(48, 5, 1000.0)
    x, y = images(model, 32, 3, 4, 4)
    threat = ThreatModel(norm="linf", eps=0.03)
    broken = [
        int((model(apgd(model, x, y, threat, torch.Generator(), loss=loss)).argmax(1) != y).sum())
        for loss in ("ce", "dlr")
    ]
    assert broken[0] < broken[1]
