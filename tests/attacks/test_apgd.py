"""The schedule of the paper, and what it buys."""

import sys
from functools import partial

import pytest
import torch

from attacks.apgd import apgd
from attacks.losses import dlr_targeted, rivals
from attacks.pacing import DENSE, PACES, SPARSE, begin, observe, stages
from attacks.pgd import pgd
from hardening.threat import ThreatModel


def test_windows_are_the_papers():
    assert list(DENSE.windows(100)) == [22, 41, 57, 70, 80, 87, 93, 99]
    assert sum(DENSE.windows(100).values()) == 99
    assert list(SPARSE.windows(100)) == list(range(4, 100, 4))
    assert list(SPARSE.windows(10)) == list(range(1, 10))


@pytest.mark.parametrize("norm", PACES)
@pytest.mark.parametrize("steps", [1, 2, 3, 4, 10, 100])
def test_every_step_is_spent_and_the_last_ones_in_the_threat_model(norm, steps):
    threat = ThreatModel(norm=norm, eps=1)
    balls = stages(threat, steps)
    assert sum(count for _, count in balls) == steps
    assert all(count > 0 for _, count in balls)
    assert balls[-1][0] is threat
    assert [ball.eps for ball, _ in balls] == sorted((b.eps for b, _ in balls), reverse=True)


def test_a_stuck_image_goes_back_to_its_best_point_with_half_the_step():
    """The first image's loss rises once and falls, the second's keeps rising."""
    threat, x = ThreatModel(norm="linf", eps=0.1), torch.zeros(2, 3)
    run = begin(x, x, threat)
    for i, losses in enumerate([[0.0, 0.0], [2.0, 1.0], [1.0, 2.0]]):
        points = torch.full((2, 3), float(i))
        run = observe(run._replace(points=points), torch.tensor(losses), 10 * points)
    checked = DENSE.check(run, x, threat, 1.5)
    assert checked.points[:, 0].tolist() == [1.0, 2.0]
    assert checked.gradient[:, 0].tolist() == [10.0, 20.0]
    assert checked.loss.tolist() == [2.0, 2.0]
    assert checked.step.tolist() == pytest.approx([0.1, 0.2])
    assert checked.rises.tolist() == [0, 0]


def test_a_window_without_a_new_best_halves_unless_the_last_one_did():
    threat, x = ThreatModel(norm="linf", eps=0.1), torch.zeros(1, 3)
    run = observe(begin(x, x, threat), torch.tensor([1.0]), torch.ones(1, 3))
    kept = DENSE.check(run, x, threat, 0.0)
    assert kept.step.item() == pytest.approx(0.2)
    halved = DENSE.check(kept, x, threat, 0.0)
    assert halved.step.item() == pytest.approx(0.1)
    assert DENSE.check(halved, x, threat, 0.0).step.item() == pytest.approx(0.1)


def test_a_step_is_a_mean_of_the_ascent_and_the_last_step():
    threat, x = ThreatModel(norm="linf", eps=1.0), torch.full((1, 2), 0.5)
    run = begin(x, x, threat)._replace(
        previous=torch.tensor([[0.4, 0.5]]),
        gradient=torch.tensor([[-1.0, 1.0]]),
        step=torch.tensor([0.2]),
    )
    moved = DENSE.move(run, x, threat, False)
    # 0.75 of the step of 0.2, and 0.25 of the last one: + 0.1 and 0.
    assert moved.points[0].tolist() == pytest.approx([0.5 - 0.15 + 0.025, 0.5 + 0.15])
    assert torch.equal(moved.previous, run.points)


def test_a_sparse_step_moves_the_steepest_numbers_that_can_move():
    threat, x = ThreatModel(norm="l1", eps=1.0), torch.tensor([[0.5, 0.5, 1.0, 0.5, 0.5]])
    run = begin(x, x, threat)._replace(
        gradient=torch.tensor([[1.0, -3.0, 9.0, 2.0, 0.0]]),
        step=torch.tensor([0.4]),
        share=torch.tensor([0.4]),
    )
    moved = SPARSE.move(run, x, threat, False)
    assert (moved.points - x)[0].tolist() == pytest.approx([0, -0.24, 0, 0.16, 0])


def test_sparse_steps_get_thinner_with_the_best_point_and_shorter_when_it_does_not():
    """The first image's best point changes two numbers of ten, the second's all of them."""
    threat, x = ThreatModel(norm="l1", eps=1.0), torch.full((2, 10), 0.5)
    points = x + 0.1 * torch.tensor([[1.0] * 2 + [0.0] * 8, [1.0] * 10])
    run = observe(begin(points, x, threat), torch.ones(2), torch.full((2, 10), 7.0))
    run = run._replace(changed=torch.ones(2), points=torch.zeros(2, 10))
    checked = SPARSE.check(run, x, threat, 0.0)
    assert checked.share.tolist() == pytest.approx([0.2 / 1.5, 1 / 1.5])
    assert checked.step.tolist() == pytest.approx([1.0, 1 / 1.5])
    assert torch.equal(checked.points, torch.stack([points[0], torch.zeros(10)]))
    for _ in range(20):
        checked = SPARSE.check(checked, x, threat, 0.0)
    assert checked.step.tolist() == pytest.approx([0.1, 0.1])


def test_what_fools_in_a_wider_ball_only_is_no_success():
    """Both classes meet at a distance of one and a half eps: the wider ball has successes."""
    x, y = torch.full((4, 3, 4), 0.5), torch.zeros(4, dtype=torch.long)
    threat = ThreatModel(norm="l1", eps=0.3)
    seen = []

    def model(points):
        beyond = (points - 0.5).flatten(1).abs().sum(1) - 1.5 * threat.eps
        seen.append(bool((beyond > 0).any()))
        return torch.stack([-beyond, beyond], 1)

    x_adv, step = apgd(model, x, y, threat, torch.Generator().manual_seed(0), steps=20)
    assert any(seen)
    assert threat.contains(x, x_adv).all()
    assert (step == -1).all()


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
@pytest.mark.parametrize(("norm", "eps"), [("l2", 0.5), ("l1", 3)])
def test_short_runs_have_a_schedule_too(norm, eps, steps, curved, images):
    model = curved(48, 5)
    x, y = images(model, 8, 3, 4, 4)
    threat = ThreatModel(norm=norm, eps=eps)
    x_adv = apgd(model, x, y, threat, torch.Generator(), steps=steps).x_adv
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
        (attack(peaked, x, y, threat, torch.Generator()).x_adv - target).abs().amax()
        for attack in (apgd, partial(pgd, steps=100, relative_step=0.5))
    ]
    assert reached[0] < 0.2 * reached[1]


@pytest.mark.parametrize("loss", ["dlr", "dlr-targeted"])
def test_dlr_does_not_see_the_scale_of_the_logits(loss, norm, curved, images):
    threat = ThreatModel(norm=norm, eps={"linf": 0.03, "l2": 0.2, "l1": 1}[norm])
    x, y = images(curved(48, 5), 32, 3, 4, 4)
    once, thousandfold, power_of_two = (
        apgd(curved(48, 5, scale), x, y, threat, torch.Generator(), steps=40, loss=loss).x_adv
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
        int((apgd(model, x, y, threat, torch.Generator(), loss=loss).step > 0).sum())
        for loss in ("ce", "dlr")
    ]
    assert broken[0] < broken[1]


def test_targets_are_the_other_classes_by_their_clean_logits(monkeypatch, curved, images):
    """Each standing image has its own, in order, and never more than there are."""
    model = curved(48, 5)
    x, y = images(model, 6, 3, 4, 4)
    aims = []

    def watched(logits, y, target):
        aims.append((len(y), target))
        return dlr_targeted(logits, y, target)

    monkeypatch.setattr(sys.modules["attacks.apgd"], "dlr_targeted", watched)
    threat = ThreatModel(norm="linf", eps=1e-4)  # all stand
    apgd(model, x, y, threat, torch.Generator(), steps=3, loss="dlr-targeted", restarts=2)
    order = rivals(model(x).detach(), y)
    assert order.shape == (6, 4)
    expected = [order[:, rank] for rank in range(4) for _ in range(2 * (3 + 1))]
    assert len(aims) == len(expected)
    assert all(torch.equal(aim, column) for (_, aim), column in zip(aims, expected, strict=True))


@pytest.mark.parametrize("classes", [2, 3, 4, 5])
def test_a_targeted_search_leaves_with_the_images_that_fall(classes, curved, images):
    """The targets of those that stand are still theirs."""
    model = curved(48, classes)
    x, y = images(model, 24, 3, 4, 4)
    threat = ThreatModel(norm="linf", eps=0.02)
    run = partial(apgd, steps=20, loss="dlr-targeted")
    step = run(model, x, y, threat, torch.Generator().manual_seed(0)).step
    assert 2 < int((step > 0).sum()) < 24
    every = [
        int((run(model, x, y, threat, torch.Generator(), targets=t).step > 0).sum()) for t in (1, 9)
    ]
    assert every[0] <= every[1]


def test_a_targeted_search_takes_any_mistake(scripted):
    """It aims at class 1; class 7 is what the label loses to."""
    standing = torch.tensor([0.05, 0.04] + 8 * [0.0])
    fallen = torch.tensor([10.0] + 9 * [-50.0])
    fallen[7] = 10.1
    model = scripted(lambda t: torch.where((t > 0.02)[:, None], fallen, standing))
    x, y = torch.full((4, 1, 4, 4), 0.5), torch.zeros(4, dtype=torch.long)
    threat = ThreatModel(norm="linf", eps=0.1)
    found = apgd(model, x, y, threat, torch.Generator(), steps=10, loss="dlr-targeted", targets=1)
    assert (model(found.x_adv).argmax(1) == 7).all()
    assert (found.step > 0).all()
