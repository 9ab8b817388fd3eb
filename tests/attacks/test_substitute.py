"""The substitute: what it may ask, that it learns, that labels are all it hears."""

import pytest
import torch
from torch import nn

from attacks.noise import noise
from attacks.substitute import _fit, _network, _train, substitute
from hardening.threat import ThreatModel

SHAPES = [(1, 8, 8), (3, 5, 9), (2, 1, 1), (12,), (3, 4)]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def labels_of(model):
    """The labels alone, as scores that say nothing else."""

    def answers(x):
        logits = model(x).detach()
        return torch.zeros_like(logits).scatter(1, logits.argmax(1, keepdim=True), 1.0)

    return answers


@pytest.mark.parametrize(
    ("images_given", "seeds", "rounds", "queries", "asked"),
    [
        (40, 10, 2, 1000, 10 + 10 + 20),  # all are doubled while labels last
        (40, 150, 1, 1000, 40 + 40),  # no more seeds than images
        (40, 10, 6, 100, 100),  # the reservoir spends the budget to the last label
        (40, 10, 3, 11, 11),
        (40, 30, 3, 7, 7),  # seeds are paid for, too
    ],
)
def test_asks_for_exactly_so_many_labels(
    images_given, seeds, rounds, queries, asked, curved, counted, images, rng
):
    model = counted(curved(48, 5))
    x, y = images(model.model, images_given, 3, 4, 4)
    threat = ThreatModel(norm="linf", eps=0.01)
    substitute(model, x, y, threat, rng, seeds=seeds, rounds=rounds, queries=queries, steps=2)
    assert sum(model.sizes) == images_given + asked + images_given
    assert model.backwards == []


def test_labels_that_do_not_pay_for_all_are_spread_over_the_rounds_left(counted, rng):
    model = counted(lambda x: torch.stack([x.sum(1), 6 - x.sum(1)], 1))
    _train(model, torch.rand(10, 12, generator=seeded()), 2, 6, 100, rng)
    assert model.sizes == [10, 10, 16, 16, 16, 16, 16]


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_hears_labels_only(norm, curved, images):
    model = curved(48, 5)
    x, y = images(model, 20, 3, 4, 4)
    threat = ThreatModel(norm=norm, eps={"linf": 0.1, "l2": 0.5, "l1": 2.0}[norm])
    first, second = (
        substitute(what, x, y, threat, seeded(), rounds=2, queries=60, steps=5)
        for what in (model, labels_of(model))
    )
    assert torch.equal(first.x_adv, second.x_adv)
    assert torch.equal(first.step, second.step)


def test_the_substitute_comes_to_agree_with_the_model(random_affine, images, rng):
    model = random_affine(12, 4)
    x, _ = images(model, 100, 12)
    net = _train(labels_of(model), x, 4, 3, 800, rng)
    fresh = torch.rand(400, 12, generator=seeded(9))
    agreed = (net(fresh).argmax(1) == model(fresh).argmax(1)).float().mean()
    most_common = model(fresh).argmax(1).bincount().max() / 400
    assert agreed > 0.7
    assert agreed > most_common + 0.2


def test_fools_the_model_far_more_often_than_noise(random_affine, images):
    model = random_affine(12, 4)
    x, y = images(model, 100, 12)
    threat = ThreatModel(norm="linf", eps=0.1)
    found = substitute(labels_of(model), x, y, threat, seeded(), rounds=3, queries=800)
    fell = int((found.step == 1).sum())
    by_chance = int((noise(model, x, y, threat, seeded(), draws=1).step > 0).sum())
    within_reach = int((model.distance(x, y, "linf") < threat.eps).sum())
    assert threat.contains(x, found.x_adv).all()
    assert torch.equal(found.step == 1, model(found.x_adv).argmax(1) != y)
    assert fell >= 3 * by_chance
    assert 0.7 * within_reach < fell <= within_reach


def test_new_images_move_up_the_labels_slope_and_down_after_three_rounds(rng):
    """All images known are moved in every round here, so the means tell which way."""
    asked = []

    def one_class(x):
        asked.append(x.clone())
        return torch.tensor([[1.0, 0.0, 0.0]]).repeat(len(x), 1)

    known = 0.4 + 0.2 * torch.rand(4, 12, generator=seeded())
    net = _train(one_class, known, 3, 5, 4 * 2**5, rng)
    assert [len(batch) for batch in asked] == [4, 4, 8, 16, 32, 64]
    steps = (asked[1][:, None] - known).abs()
    assert (steps - 0.1).abs().amax(2).amin(1).max() < 1e-6  # each is 0.1 from one of them
    pool, ways = known, []
    for new in asked[1:]:
        slope = torch.autograd.grad(net(pool.requires_grad_())[:, 0].sum(), pool)[0].mean(0)
        pool = pool.detach()
        ways.append(float(((new.mean(0) - pool.mean(0)) * slope).sum().sign()))
        pool = torch.cat([pool, new])
    assert ways == [1, 1, 1, -1, -1]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_any_input_shape_gets_a_network_drawn_from_the_given_numbers(shape):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first, again, other = (_network(torch.Size(shape), 7, seeded(s)) for s in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    x = torch.rand(5, *shape, generator=seeded())
    assert first(x).shape == (5, 7)
    assert torch.equal(first(x), again(x))
    assert not torch.equal(first(x), other(x))
    sizes = [p.std() for p in first.parameters() if p.ndim > 1]
    assert all(torch.isfinite(size) and 0 < size < 2 for size in sizes)


def test_training_lowers_the_loss_and_leaves_no_gradients_asked_for():
    net = _network(torch.Size((6,)), 3, seeded())
    x = torch.rand(60, 6, generator=seeded(1))
    y = (3 * x[:, 0]).long()
    before = nn.functional.cross_entropy(net(x), y)
    with torch.no_grad():
        _fit(net, x, y, seeded(2))
    assert nn.functional.cross_entropy(net(x), y) < before
    assert not any(p.requires_grad for p in net.parameters())


def test_images_far_apart_in_memory_fare_the_same(curved, images):
    """The substitute's own convolutions must not see the caller's memory format."""
    model = curved(48, 5)
    x, y = images(model, 12, 3, 4, 4)
    threat = ThreatModel(norm="l2", eps=0.3)
    first, second = (
        substitute(model, given, y, threat, seeded(), rounds=2, queries=40, steps=10)
        for given in (x, x.contiguous(memory_format=torch.channels_last))
    )
    assert torch.equal(first.x_adv, second.x_adv)
