"""On affine models the distance to the border is exact: who must succeed, and who must not."""

from functools import partial

import pytest
import torch

from attacks.apgd import apgd
from attacks.fgsm import fgsm
from attacks.pgd import pgd
from attacks.square import square
from hardening.threat import ThreatModel

EXACT = {
    "fgsm": fgsm,
    "pgd": pgd,
    "pgd-margin": partial(pgd, loss="margin"),
    "apgd-ce": partial(apgd, steps=40),
    "apgd-dlr": partial(apgd, steps=40, loss="dlr"),
    "apgd-margin": partial(apgd, steps=40, loss="margin"),
    "apgd-targeted": partial(apgd, steps=40, loss="dlr-targeted", targets=2),
}
ALL = {**EXACT, "r-fgsm": partial(fgsm, start=0.5), "square": partial(square, queries=50)}
SHAPES = [(12,), (3, 4), (2, 2, 2, 2)]


def each_at(attack, model, batch, norm, factor):
    """Attack every image at `factor` times its own distance; True where the label flipped."""
    flips = []
    for image, label, distance in zip(*batch, model.distance(*batch, norm).tolist(), strict=True):
        threat = ThreatModel(norm=norm, eps=distance * factor)
        rng = torch.Generator().manual_seed(0)
        x_adv = attack(model, image[None], label[None], threat, rng).x_adv
        flips.append(bool(model(x_adv).argmax(1) != label))
    return flips


@pytest.mark.parametrize("attack", EXACT.values(), ids=EXACT)
@pytest.mark.parametrize("classes", [2, 3, 10])
def test_flips_every_label_just_beyond_its_distance(attack, classes, norm, affine, images):
    model = affine(48, classes)
    batch = images(model, 4, 3, 4, 4, low=0.45, high=0.55)
    assert set(batch[1].tolist()) == {0, 1}
    assert all(each_at(attack, model, batch, norm, 1.05))


@pytest.mark.parametrize("attack", EXACT.values(), ids=EXACT)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_gradient_attacks_take_inputs_of_any_rank(attack, shape, norm, affine, images):
    model = affine(torch.Size(shape).numel(), 3)
    batch = images(model, 2, *shape, low=0.45, high=0.55)
    assert all(each_at(attack, model, batch, norm, 1.05))


@pytest.mark.parametrize("attack", ALL.values(), ids=ALL)
@pytest.mark.parametrize("classes", [2, 10])
def test_flips_no_label_within_its_distance(attack, classes, norm, random_affine, images):
    model = random_affine(48, classes)
    batch = images(model, 2, 3, 4, 4, low=0.45, high=0.55)
    assert not any(each_at(attack, model, batch, norm, 0.99))


@pytest.mark.parametrize("attack", EXACT.values(), ids=EXACT)
def test_robust_accuracy_is_the_share_of_images_further_out_than_eps(attack, norm, affine, images):
    model = affine(48, 2)
    x, y = images(model, 60, 3, 4, 4, low=0.4, high=0.6)
    distance = model.distance(x, y, norm)
    eps = float(distance.quantile(0.5))
    x_adv, step = attack(model, x, y, ThreatModel(norm=norm, eps=eps), torch.Generator())
    near = (distance / eps - 1).abs() < 0.05  # convergence and rounding
    stands = model(x_adv).argmax(1) == y
    assert near.sum() < 15
    assert torch.equal(stands[~near], (distance > eps)[~near])
    assert torch.equal(stands, step == -1)


@pytest.mark.parametrize(("norm", "factor"), [("linf", 1.2), ("l2", 2.5), ("l1", 8)])
def test_square_flips_every_label_a_little_further_out(norm, factor, affine, images):
    model = affine(48, 3)
    batch = images(model, 8, 3, 4, 4, low=0.45, high=0.55)
    assert all(each_at(partial(square, queries=200), model, batch, norm, factor))


@pytest.mark.parametrize("attack", EXACT.values(), ids=EXACT)
def test_pixels_at_the_ends_of_the_range_move_inward(attack, affine):
    """A clamp inside the differentiated graph would freeze them: their gradient would be zero."""
    model = affine(48, 3)
    with torch.no_grad():  # flatter, or cross entropy underflows this far from the border
        model.weight.mul_(0.1)
        model.bias[1] *= 0.1
    black_where_up = (model.weight[1] < 0).float().detach().view(1, 3, 4, 4)
    for x, y in ((black_where_up, 0), (1 - black_where_up, 1)):
        label = torch.tensor([y])
        assert model(x).argmax(1) == label
        assert each_at(attack, model, (x, label), "linf", 1.05) == [True]


@pytest.mark.parametrize("attack", EXACT.values(), ids=EXACT)
def test_an_l1_budget_is_not_lost_on_numbers_at_the_end_of_the_range(attack):
    """The steepest numbers cannot move: the distance is what the others need."""
    weight = torch.zeros(2, 20)
    weight[1] = torch.arange(20, 0, -1)
    model_of = torch.ones(1, 20)
    model_of[:, 8:] = 0.5  # the first eight want to go beyond 1; the next go up by 0.5 at most
    x, y = model_of, torch.tensor([0])
    # Up to eps 1.2 the best are two numbers by 0.5 and one by 0.2: slopes 12, 11, 10.
    reach = 0.5 * 12 + 0.5 * 11 + 0.2 * 10

    def model(points):
        logit = (points.flatten(1) - x) @ weight[1] - reach
        return torch.stack([-logit / 2, logit / 2], 1)

    for eps, falls in ((1.2 * 1.03, True), (1.2 * 0.99, False)):
        threat = ThreatModel(norm="l1", eps=eps)
        step = attack(model, x, y, threat, torch.Generator().manual_seed(0)).step
        assert bool(step > 0) is falls
