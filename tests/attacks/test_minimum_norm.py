"""Minimum-norm attacks: how near they come where the nearest point is known in closed form."""

from functools import partial
from math import inf

import pytest
import torch
from torch import nn

from attacks.cw import cw
from attacks.ddn import ddn
from attacks.deepfool import deepfool
from attacks.fab import fab
from attacks.fmn import fmn
from attacks.hyperplane import onto
from attacks.lbfgs import lbfgs
from hardening.errors import ModelError
from hardening.threat import ThreatModel

DUAL = {"linf": 1, "l2": 2, "l1": inf}

quick_fab = partial(fab, steps=20, targets=2)
quick_cw = partial(cw, steps=120, searches=7)
quick_lbfgs = partial(lbfgs, steps=12, searches=8)

ATTACKS = {
    "ddn-l2": (ddn, "l2", 1.02),
    "fmn-linf": (fmn, "linf", 1.02),
    "fmn-l2": (fmn, "l2", 1.02),
    "fmn-l1": (fmn, "l1", 1.02),
    "fab-linf": (quick_fab, "linf", 1.001),
    "fab-l2": (quick_fab, "l2", 1.001),
    "fab-l1": (quick_fab, "l1", 1.001),
    "cw-l2": (quick_cw, "l2", 1.02),
    "deepfool-l2": (deepfool, "l2", 1.0201),
    "deepfool-linf": (deepfool, "linf", 1.0201),
    "lbfgs-l2": (quick_lbfgs, "l2", 1.05),
}
L0 = {"fmn-l0": (fmn, "l0", 1.0)}
each = pytest.mark.parametrize(("attack", "norm", "bound"), ATTACKS.values(), ids=ATTACKS)
each_with_l0 = pytest.mark.parametrize(
    ("attack", "norm", "bound"), (ATTACKS | L0).values(), ids=ATTACKS | L0
)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def unbounded(norm, x):
    return ThreatModel(norm=norm, eps=1.0).unbounded(x.shape[1:])


def distances(model, x, y, norm):
    """Exact distance to the nearest other class of an affine model, (B,), box inactive."""
    with torch.no_grad():
        logits, rows = model(x), torch.arange(len(y))
        gaps = logits[rows, y][:, None] - logits
        slopes = model.weight[y][:, None] - model.weight
        all_distances = gaps / torch.linalg.vector_norm(slopes, ord=DUAL[norm], dim=2)
        all_distances[rows, y] = inf
    return all_distances.amin(1)


def around_the_border(model, count=6):
    """Images near mid-grey, (count, 3, 4, 4), whose L2 distances to the border are about 0.1."""
    up = model.weight.detach()[1].view(1, 3, 4, 4)
    x = 0.5 + 0.02 * torch.randn(count, 3, 4, 4, generator=seeded(3))
    side = torch.tensor([0.1, -0.1]).repeat(count // 2).view(-1, 1, 1, 1)
    x = x + side * up / up.norm()
    return x, model(x).detach().argmax(1)


@each
@pytest.mark.parametrize("classes", [2, 3, 10])
def test_comes_as_near_as_the_closed_form(attack, norm, bound, classes, affine):
    model = affine(48, classes)
    x, y = around_the_border(model)
    assert set(y.tolist()) == {0, 1}
    threat = unbounded(norm, x)
    found = attack(model, x, y, threat, seeded())
    assert (model(found.x_adv).argmax(1) != y).all()
    ratios = threat.distance(x, found.x_adv) / distances(model, x, y, norm)
    assert float(ratios.min()) > 0.9999
    assert float(ratios.max()) <= bound


@each
def test_finds_the_nearest_of_ten_borders_for_most_images(
    attack, norm, bound, random_affine, images
):
    model = random_affine(48, 10)
    x, y = images(model, 12, 3, 4, 4, low=0.2, high=0.8)
    threat = unbounded(norm, x)
    found = attack(model, x, y, threat, seeded())
    assert (model(found.x_adv).argmax(1) != y).all()
    ratios = threat.distance(x, found.x_adv) / distances(model, x, y, norm)
    assert float(ratios.min()) > 0.9999
    assert float(ratios.median()) <= bound


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_fab_finds_the_nearest_border_of_every_image(norm, random_affine, images):
    model = random_affine(48, 10)
    x, y = images(model, 12, 3, 4, 4, low=0.2, high=0.8)
    threat = unbounded(norm, x)
    found = fab(model, x, y, threat, seeded(), steps=20)
    ratios = threat.distance(x, found.x_adv) / distances(model, x, y, norm)
    assert float(ratios.max()) <= 1.02


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_fab_closes_in_on_the_border_at_the_end(norm, affine):
    """One step overshoots by a twentieth; the three last passes take that back."""
    model = affine(48, 3)
    x, y = around_the_border(model)
    threat = unbounded(norm, x)
    found = fab(model, x, y, threat, seeded(), steps=1, targets=1)
    ratios = threat.distance(x, found.x_adv) / distances(model, x, y, norm)
    assert float(ratios.max()) <= 1.0001


def test_fab_comes_nearer_by_drawing_points_back(curved, images):
    model = curved(48, 5)
    x, y = images(model, 12, 3, 4, 4)
    threat = unbounded("l2", x)
    drawn_back, kept = (
        fab(model, x, y, threat, seeded(), steps=20, targets=2, beta=beta) for beta in (0.9, 1.0)
    )
    assert not torch.equal(drawn_back.x_adv, kept.x_adv)
    assert threat.distance(x, drawn_back.x_adv).mean() <= threat.distance(x, kept.x_adv).mean()


def test_fmn_changes_as_few_numbers_as_the_closed_form(affine):
    model = affine(48, 3)
    x, y = around_the_border(model)
    up = model.weight.detach()[1].flatten()
    found = fmn(model, x, y, unbounded("l0", x), seeded())
    assert (model(found.x_adv).argmax(1) != y).all()
    for image, label, x_adv in zip(x, y, found.x_adv, strict=True):
        logits = model(image[None])[0]
        rising = up if label == 0 else -up
        room = torch.where(rising > 0, 1 - image.flatten(), image.flatten())
        gains = (rising.abs() * room).sort(descending=True).values.cumsum(0)
        fewest = int((gains <= (logits[0] - logits[1]).abs()).sum()) + 1
        assert fewest <= int((x_adv != image).sum()) <= fewest + 1


@each
def test_pixels_at_the_ends_of_the_range_move(attack, norm, bound, affine):
    """The inverse of tanh is infinite there; a clamp in the graph would stop gradients."""
    model = affine(48, 3)
    x = (model.weight.detach()[1] < 0).float().view(1, 3, 4, 4)
    with torch.no_grad():
        model.bias[1] -= 0.9 * model(x)[0, 1]  # nearer, or L1 would need whole images
    y = torch.tensor([0])
    assert model(x).argmax(1) == y
    threat = unbounded(norm, x)
    slope = (model.weight[1] - model.weight[0]).detach()[None]
    change = (model(x)[:, 0] - model(x)[:, 1]).detach()
    move = onto(x.flatten(1), slope, change, norm).view_as(x)
    optimum = threat.distance(x, x + move)
    found = attack(model, x, y, threat, seeded())
    assert model(found.x_adv).argmax(1) != y
    assert float(threat.distance(x, found.x_adv) / optimum) <= bound + 0.05


@each_with_l0
def test_a_model_without_slope_gives_every_image_back(attack, norm, bound):
    def flat(x):
        return torch.tensor([1.0, 0.0, 0.0]) + 0 * x.flatten(1).sum(1, keepdim=True)

    x, y = torch.rand(3, 2, 3, 3, generator=seeded()), torch.zeros(3, dtype=torch.long)
    found = attack(flat, x, y, unbounded(norm, x), seeded())
    assert torch.equal(found.x_adv, x)
    assert found.step.tolist() == [-1, -1, -1]


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_deepfool_ends_though_the_range_cuts_half_of_each_step(norm, affine):
    """Steps that fall short by half come ever nearer to the border and never cross it."""
    model = affine(48, 3)
    x, y = torch.ones(1, 3, 4, 4), torch.tensor([0])
    with torch.no_grad():
        model.bias[1] -= model(x)[0, 1] + 0.5
    found = deepfool(model, x, y, unbounded(norm, x), seeded())
    assert model(found.x_adv).argmax(1) != y
    assert 2 < int(found.step) < 12


def test_deepfool_spends_nothing_on_images_without_a_gradient(counted):
    count = counted(lambda x: torch.tensor([1.0, 0.0]) + 0 * x.flatten(1).sum(1, keepdim=True))
    x, y = torch.rand(3, 4, generator=seeded()), torch.zeros(3, dtype=torch.long)
    deepfool(count, x, y, unbounded("l2", x), seeded())
    assert count.sizes == [3, 3]


class Plateau(nn.Module):
    """Two classes; at mid-grey there is no gradient at all, a little beside it there is."""

    def forward(self, x):
        t = (x - 0.5).flatten(1).square().mean(1)
        return torch.stack([torch.full_like(t, 0.02), t], 1)


@pytest.mark.parametrize("norm", ["linf", "l2", "l1", "l0"])
def test_an_image_without_a_gradient_is_left_at_random(norm):
    x, y = torch.full((4, 1, 4, 4), 0.5), torch.zeros(4, dtype=torch.long)
    attacks = [fmn, ddn] if norm == "l2" else [fmn]
    for attack in attacks:
        found = attack(Plateau(), x, y, unbounded(norm, x), seeded())
        assert found.x_adv.isfinite().all()
        assert (Plateau()(found.x_adv).argmax(1) != y).all()


def test_ddn_climbs_where_cross_entropy_has_underflown(curved, images):
    model, steep = curved(48, 5), curved(48, 5, 1000.0)
    x, y = images(model, 8, 3, 4, 4)
    threat = unbounded("l2", x)
    near = threat.distance(x, ddn(model, x, y, threat, seeded()).x_adv)
    as_near = threat.distance(x, ddn(steep, x, y, threat, seeded()).x_adv)
    assert (as_near < 1.5 * near).all()
    assert float(as_near.median()) == pytest.approx(float(near.median()), rel=0.05)


@each_with_l0
@pytest.mark.parametrize("classes", [2, 10])
def test_an_image_fares_the_same_in_any_batch(attack, norm, bound, classes, curved, images):
    """No mean loss, no shared random numbers, no stop or bound that images share."""
    model = curved(48, classes)
    x, y = images(model, 9, 3, 4, 4)
    y = torch.where(torch.arange(9) == 2, (y + 1) % classes, y)
    threat = unbounded(norm, x)
    shorter = {"searches": 2, "first_weight": 1.0} if attack in {quick_cw, quick_lbfgs} else {}
    together = attack(model, x, y, threat, seeded(), **shorter)
    alone = attack(model, x[:4], y[:4], threat, seeded(), **shorter)
    assert torch.equal(alone.x_adv, together.x_adv[:4])
    assert torch.equal(alone.step, together.step[:4])
    assert (model(together.x_adv).argmax(1) != y).sum() >= 8
    assert together.step[2] == 0
    assert torch.equal(together.x_adv[2], x[2])


@each_with_l0
@pytest.mark.parametrize("eps", [0.02, 0.3, 3.0])
def test_stays_in_the_threat_model(attack, norm, bound, eps, curved, images):
    model = curved(48, 5)
    x, _ = images(model, 6, 3, 4, 4)
    x = (x * 255).round() / 255
    y = model(x).detach().argmax(1)
    threat = ThreatModel(norm=norm, eps=eps * {"linf": 0.1, "l0": 10}.get(norm, 1))
    kept = x.clone()
    shorter = {"searches": 2, "first_weight": 1.0} if attack in {quick_cw, quick_lbfgs} else {}
    found = attack(model, x, y, threat, seeded(), **shorter)
    assert threat.contains(x, found.x_adv).all()
    assert torch.equal(x, kept)
    fooled = model(found.x_adv).argmax(1) != y
    assert fooled[found.step > 0].all()


@each_with_l0
def test_costs_what_the_docstring_says(attack, norm, bound, curved, counted, images):
    model = curved(48, 4)
    x, y = images(model, 5, 3, 4, 4)
    forwards, backwards = {
        ddn: (102, 100),
        fmn: (102, 100),
        quick_fab: (2 * 21 + 5, 2 * 20),
        quick_cw: (7 * 121 + 1, 7 * 120),
        deepfool: (52, 150),
        quick_lbfgs: (8 * 24 + 2, 8 * 24 + 3),
    }[attack]
    count = counted(model)
    found = attack(count, x, y, unbounded(norm, x), seeded())
    assert sum(count.sizes) <= 5 * forwards
    assert sum(count.backwards) <= 5 * backwards
    assert (found.step <= forwards).all()
    if attack in {ddn, fmn, quick_fab}:
        assert sum(count.backwards) == 5 * backwards


def test_deepfool_needs_one_step_on_an_affine_model(affine, counted):
    model = affine(48, 10)
    x, y = around_the_border(model)
    count = counted(model)
    found = deepfool(count, x, y, unbounded("l2", x), seeded(), classes=3)
    assert (found.step == 2).all()
    assert sum(count.sizes) == 3 * len(x)
    assert sum(count.backwards) == 2 * 3 * len(x)


def test_more_targets_and_restarts_never_end_farther(curved, images):
    model = curved(48, 10)
    x, y = images(model, 8, 3, 4, 4)
    threat = unbounded("l2", x)
    few = fab(model, x, y, threat, seeded(), steps=20, targets=1)
    many = fab(model, x, y, threat, seeded(), steps=20, targets=4, restarts=2)
    nearer = threat.distance(x, few.x_adv) - threat.distance(x, many.x_adv)
    assert float(nearer.min()) > -1e-3
    assert float(nearer.max()) > 0


def test_kappa_asks_for_a_margin(affine):
    model = affine(48, 3)
    x, y = around_the_border(model)
    found = cw(model, x, y, unbounded("l2", x), seeded(), steps=150, searches=6, kappa=0.2)
    logits = model(found.x_adv)
    rows = torch.arange(len(y))
    assert (logits[rows, 1 - y] - logits[rows, y] > 0.2).all()


@each
def test_a_model_without_gradients_is_refused(attack, norm, bound, curved, images):
    model = curved(48, 3)
    x, y = images(model, 2, 3, 4, 4)
    with pytest.raises(ModelError, match="expected a differentiable model"):
        attack(lambda x: model(x).detach(), x, y, unbounded(norm, x), seeded())


@each_with_l0
@pytest.mark.parametrize("shape", [(12,), (2, 2, 2, 2)], ids=str)
def test_takes_inputs_of_any_rank_and_no_inputs(attack, norm, bound, shape, curved, images):
    model = curved(torch.Size(shape).numel(), 3)
    x, y = images(model, 3, *shape)
    shorter = {"searches": 2, "first_weight": 1.0} if attack in {quick_cw, quick_lbfgs} else {}
    threat = unbounded(norm, x)
    found = attack(model, x, y, threat, seeded(), **shorter)
    assert (model(found.x_adv).argmax(1) != y).any()
    assert attack(model, x[:0], y[:0], threat, seeded(), **shorter).x_adv.shape == x[:0].shape
