"""What a file gets wrong and its parent gets right."""

import pytest
import torch

from attacks.diva import diva
from attacks.pgd import pgd
from hardening.carried import Beside
from hardening.deployed import Counted
from hardening.threat import ThreatModel


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def pair(affine, images):
    """A file, a parent whose border is as near but partly elsewhere, images both get right."""
    file, parent = affine(48, 2), affine(48, 2)
    with torch.no_grad():
        turned = torch.randn(48, generator=seeded(1)) * 0.5
        parent.weight[1] += turned
        parent.bias[1] -= 0.5 * turned.sum()
    x = images(file, 40, 3, 4, 4, low=0.4, high=0.6)[0]
    y = torch.zeros(len(x), dtype=torch.long)
    both = (file(x).argmax(1) == 0) & (parent(x).argmax(1) == 0)
    assert both.sum() > 8
    return file, parent, x[both], y[both]


def evasive(file, parent, x, y):
    return (file(x).argmax(1) != y) & (parent(x).argmax(1) == y)


def test_finds_points_that_the_file_alone_gets_wrong_where_pgd_fools_both(pair):
    file, parent, x, y = pair
    threat = ThreatModel(eps=0.15)

    found = diva(Beside(file, parent), x, y, threat, seeded())
    plain = pgd(file, x, y, threat, seeded(), loss="ce")

    parted = evasive(file, parent, found.x_adv, y)
    assert parted.float().mean() > 0.8
    assert parted.float().mean() > evasive(file, parent, plain.x_adv, y).float().mean() + 0.3
    assert torch.equal(found.step > 0, parted)
    assert threat.contains(x, found.x_adv).all()


def test_a_parent_that_is_the_file_itself_is_never_parted_from(pair):
    file, _, x, y = pair

    found = diva(Beside(file, file), x, y, ThreatModel(eps=0.15), seeded())

    assert (found.step == -1).all()


def test_the_parent_is_reached_through_the_counter_and_its_passes_are_not_counted(pair):
    file, parent, x, y = pair
    counted = Counted(Beside(file, parent))

    found = diva(counted, x, y, ThreatModel(eps=0.15), seeded(), steps=5)
    alone = Counted(file)
    diva(alone, x, y, ThreatModel(eps=1e-4), seeded(), steps=5)

    assert evasive(file, parent, found.x_adv, y).any()
    assert 0 < counted.forwards <= alone.forwards


def test_more_weight_on_the_file_fools_it_more_often(pair):
    file, parent, x, y = pair

    def fooled(weight):
        model = Beside(file, parent)
        x_adv = diva(model, x, y, ThreatModel(eps=0.04), seeded(), weight=weight).x_adv
        return int((file(x_adv).argmax(1) != y).sum())

    assert fooled(20.0) > fooled(0.2)


def test_an_image_that_the_file_alone_gets_wrong_as_it_is_has_fallen_already(pair):
    file, parent, x, y = pair
    wrong = 1 - y

    found = diva(
        Beside(file, lambda x: parent(x).flip(1)), x, wrong, ThreatModel(eps=0.1), seeded()
    )

    assert (found.step == 0).all()
    assert torch.equal(found.x_adv, x)
