"""Success first, wherever on the path it happens; the loss second; nothing spent on the broken."""

from functools import partial

import pytest
import torch

from attacks.apgd import apgd
from attacks.fgsm import fgsm
from attacks.losses import margin
from attacks.pgd import pgd
from attacks.search import Search
from attacks.square import square
from hardening.threat import ThreatModel

THREAT = ThreatModel(norm="linf", eps=0.2)
STARTING = {"pgd": pgd, "apgd": apgd}

each_starting = pytest.mark.parametrize("attack", STARTING.values(), ids=STARTING)


def grey(count=4):
    return torch.full((count, 1, 4, 4), 0.5), torch.zeros(count, dtype=torch.long)


def fooled_where(condition):
    """Class 7 wins, at a low loss, where the condition on t / eps holds; elsewhere the loss is high
    and class 0 wins with class 1 behind it: whoever follows the loss, the runner-up or the last
    point misses the success."""
    standing = torch.tensor([0.05, 0.04] + 8 * [0.0])
    fallen = torch.tensor([10.0] + 9 * [-50.0])
    fallen[7] = 10.1

    def script(t):
        return torch.where(condition(t / THREAT.eps)[:, None], fallen, standing)

    return script


def falls(attack, model):
    x, y = grey()
    x_adv, step = attack(model, x, y, THREAT, torch.Generator().manual_seed(0))
    assert torch.equal(step > 0, model(x_adv).argmax(1) == 7)
    assert THREAT.contains(x, x_adv).all()
    return bool((model(x_adv).argmax(1) == 7).all())


def test_a_success_on_the_way_is_kept(scripted):
    model = scripted(fooled_where(lambda t: (t > 0.4) & (t < 0.6)))
    assert falls(pgd, model)


@each_starting
def test_a_success_at_the_start_is_kept(attack, scripted):
    assert falls(attack, scripted(fooled_where(lambda t: (t != 0) & (t.abs() < 0.6))))


@pytest.mark.parametrize(
    "attack",
    [partial(pgd, steps=1), partial(pgd, steps=3, relative_step=0.7), partial(apgd, steps=1)],
)
def test_a_success_at_the_last_point_is_kept(attack, scripted):
    assert falls(attack, scripted(fooled_where(lambda t: t > 0.99)))


@each_starting
def test_restarts_continue_where_none_succeeded(attack, scripted):
    """Fooled at a rare start only: one restart misses what forty find."""
    model = scripted(fooled_where(lambda t: (t > 0.2) & (t < 0.5)))
    x, y = grey(16)
    once, often = (
        attack(model, x, y, THREAT, rng, steps=1, restarts=restarts).step > 0
        for restarts, rng in ((1, torch.Generator()), (40, torch.Generator()))
    )
    assert once.sum() < often.sum()
    assert (often | ~once).all()


@pytest.mark.parametrize("attack", [pgd, apgd, square])
def test_an_image_that_stands_gets_a_point_of_higher_loss(attack, curved, images):
    model = curved(48, 5)
    x, y = images(model, 16, 3, 4, 4)
    x_adv = attack(model, x, y, ThreatModel(norm="linf", eps=0.005), torch.Generator()).x_adv
    loss = partial(torch.nn.functional.cross_entropy, target=y, reduction="none")
    stands = model(x_adv).argmax(1) == y
    assert stands.sum() > 8
    assert (loss(model(x_adv)) > loss(model(x)))[stands].all()


@pytest.mark.parametrize(
    ("attack", "forwards", "backwards"),
    [
        (fgsm, 3, 1),
        (partial(fgsm, start=0.5), 3, 1),
        (partial(pgd, steps=7), 9, 7),
        (partial(apgd, steps=7), 9, 7),
        (partial(pgd, steps=7, restarts=2), 17, 14),
        (partial(apgd, steps=7, restarts=2), 17, 14),
        (partial(apgd, steps=7, loss="dlr-targeted", targets=2), 17, 14),
        (partial(apgd, steps=7, loss="dlr-targeted", targets=99), 73, 63),
        (partial(square, queries=7), 8, 0),
    ],
)
def test_a_step_costs_one_pass(attack, forwards, backwards, counted, scripted):
    model = counted(scripted(fooled_where(lambda t: t > 2)))
    attack(model, *grey(), THREAT, torch.Generator())
    assert model.sizes == forwards * [4]
    assert model.backwards == backwards * [4]


@pytest.mark.parametrize("attack", [pgd, apgd, square])
def test_a_broken_image_costs_nothing_more(attack, counted, curved, images):
    model = curved(48, 5)
    x, y = images(model, 24, 3, 4, 4)
    watched = counted(model)
    step = attack(watched, x, y, ThreatModel(norm="linf", eps=0.05), torch.Generator()).step
    standing = int((step == -1).sum())
    assert watched.sizes == sorted(watched.sizes, reverse=True)
    assert watched.sizes[-1] <= max(standing, 1) + 2
    assert sum(watched.sizes) < 0.8 * 24 * len(watched.sizes)


@pytest.mark.parametrize("attack", [fgsm, pgd, apgd, square])
def test_a_step_counts_the_passes_an_image_had_seen(attack, scripted):
    """The model says class 7 at its n-th look at all images and from then on."""
    for n in (2, 3):
        looks = []

        def model(points, n=n, looks=looks):
            looks.append(points)
            t = points.flatten(1).mean(1)
            fallen = torch.zeros(10)
            fallen[7 if len(looks) >= n else 0] = 1
            return (
                fallen + 0 * t[:, None] if points.requires_grad else fallen.expand(len(points), 10)
            )

        assert attack(model, *grey(), THREAT, torch.Generator()).step.tolist() == 4 * [n - 1]


def test_equal_images_search_in_different_places(norm, scripted):
    search = Search(scripted(fooled_where(lambda t: t > 2)), *grey(6), margin, torch.Generator())
    assert len(search.normal().flatten(1).unique(dim=0)) == 6
    starts = [search.sample(ThreatModel(norm=norm, eps=0.1)) for _ in range(2)]
    assert len(torch.cat(starts).flatten(1).unique(dim=0)) == 12
    assert len(torch.cat([search.uniform(3) for _ in range(2)]).unique(dim=0)) == 12


@pytest.mark.parametrize("attack", [pgd, apgd, square])
def test_the_attack_ends_when_all_are_broken(attack, counted, scripted):
    model = counted(scripted(fooled_where(lambda t: t != 0)))
    attack(model, *grey(), THREAT, torch.Generator())
    assert len(model.sizes) == 2
