"""On affine models the distance to the border is exact: who must succeed, and who must not."""

from functools import partial

import pytest
import torch

from attacks import ATTACKS, apgd, fgsm, pgd, square
from hardening.threat import ThreatModel

EXACT = {
    "fgsm": fgsm,
    "pgd": pgd,
    "pgd-margin": partial(pgd, loss="margin"),
    "apgd-ce": apgd,
    "apgd-dlr": partial(apgd, loss="dlr"),
    "apgd-margin": partial(apgd, loss="margin"),
}
ALL = {**ATTACKS, **EXACT, "square": partial(square, queries=100)}
SHAPES = [(12,), (3, 4), (3, 4, 4), (2, 2, 2, 2)]


def each_at(attack, model, batch, norm, factor):
    """Attack every image at `factor` times its own distance; True where the label flipped."""
    flips = []
    for image, label, distance in zip(*batch, model.distance(*batch, norm).tolist(), strict=True):
        threat = ThreatModel(norm=norm, eps=distance * factor)
        rng = torch.Generator().manual_seed(0)
        x_adv = attack(model, image[None], label[None], threat, rng)
        flips.append(bool(model(x_adv).argmax(1) != label))
    return flips


@pytest.mark.parametrize("attack", EXACT.values(), ids=EXACT)
@pytest.mark.parametrize("classes", [2, 3, 10])
def test_flips_every_label_just_beyond_its_distance(attack, classes, norm, affine, images):
    model = affine(48, classes)
    batch = images(model, 6, 3, 4, 4, low=0.45, high=0.55)
    assert set(batch[1].tolist()) == {0, 1}
    assert all(each_at(attack, model, batch, norm, 1.05))


@pytest.mark.parametrize("attack", EXACT.values(), ids=EXACT)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_gradient_attacks_take_inputs_of_any_rank(attack, shape, norm, affine, images):
    model = affine(torch.Size(shape).numel(), 3)
    batch = images(model, 4, *shape, low=0.45, high=0.55)
    assert all(each_at(attack, model, batch, norm, 1.05))


@pytest.mark.parametrize("attack", ALL.values(), ids=ALL)
@pytest.mark.parametrize("classes", [2, 3, 10])
def test_flips_no_label_within_its_distance(attack, classes, norm, random_affine, images):
    model = random_affine(48, classes)
    batch = images(model, 6, 3, 4, 4, low=0.45, high=0.55)
    assert not any(each_at(attack, model, batch, norm, 0.99))


@pytest.mark.parametrize(("norm", "factor"), [("linf", 1.2), ("l2", 2.5)])
def test_square_flips_every_label_a_little_further_out(norm, factor, affine, images):
    model = affine(48, 3)
    batch = images(model, 8, 3, 4, 4, low=0.45, high=0.55)
    assert all(each_at(partial(square, queries=300), model, batch, norm, factor))


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
