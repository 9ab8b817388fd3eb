"""HopSkipJump: how near it gets, what it asks, and that a label is all it hears."""

import pytest
import torch

from attacks.hopskipjump import GEOMETRY, hopskipjump
from hardening.threat import ThreatModel

each_norm = pytest.mark.parametrize("norm", ["linf", "l2"])


def unbounded(norm, x):
    return ThreatModel(norm=norm, eps=1).unbounded(x.shape[1:])


@each_norm
@pytest.mark.parametrize("shape", [(12,), (3, 4, 4)], ids=str)
def test_comes_near_the_closed_form_distance(norm, shape, affine, images, rng):
    model = affine(torch.Size(shape).numel(), 3)
    x, y = images(model, 6, *shape, low=0.4, high=0.6)
    threat = unbounded(norm, x)
    found = hopskipjump(model, x, y, threat, rng, queries=1500)
    ratio = threat.distance(x, found.x_adv) / model.distance(x, y, norm)
    assert (model(found.x_adv).argmax(1) != y).all()
    assert (ratio > 0.999).all()
    assert float(ratio.median()) < (1.15 if norm == "linf" else 1.05)
    assert float(ratio.max()) < 1.25


@each_norm
def test_more_queries_bring_it_nearer(norm, curved, images):
    model = curved(48, 5)
    x, y = images(model, 12, 3, 4, 4)
    threat = unbounded(norm, x)
    few, many = (
        threat.distance(
            x, hopskipjump(model, x, y, threat, torch.Generator().manual_seed(0), queries=n).x_adv
        )
        for n in (60, 1500)
    )
    assert (many <= few).all()  # the same walk, further
    assert float(many.median()) < 0.7 * float(few.median())


@each_norm
@pytest.mark.parametrize("change", ["scaled", "permuted", "one-hot"])
def test_hears_labels_only(norm, change, curved, images):
    """Scores that say the same label in another way leave every bit as it is."""
    model = curved(48, 5)
    x, y = images(model, 10, 3, 4, 4)

    def answers(x):
        logits = model(x).detach()
        label = logits.argmax(1, keepdim=True)
        if change == "scaled":
            return 7 * logits - 3
        if change == "one-hot":
            return torch.zeros_like(logits).scatter(1, label, 1.0)
        # The other classes change places: the label keeps its own.
        rolled = logits.roll(1, 1)
        return rolled.scatter(1, label, logits.amax(1, keepdim=True) + 1)

    threat = ThreatModel(norm=norm, eps={"linf": 0.1, "l2": 0.5}[norm])
    first, second = (
        hopskipjump(what, x, y, threat, torch.Generator().manual_seed(0), queries=400)
        for what in (model, answers)
    )
    assert torch.equal(first.x_adv, second.x_adv)
    assert torch.equal(first.step, second.step)


@each_norm
@pytest.mark.parametrize("queries", [1, 2, 10, 137, 600])
def test_never_asks_more_than_told_and_wastes_nearly_nothing(
    norm, queries, curved, images, counted, rng
):
    model = counted(curved(48, 5))
    x, y = images(model.model, 6, 3, 4, 4)
    hopskipjump(model, x, y, unbounded(norm, x), rng, queries=queries)
    spent = sum(model.sizes) - 6
    assert spent <= 6 * queries
    assert spent >= 6 * (queries - 15)
    assert model.backwards == []


@each_norm
def test_no_single_image_asks_more_than_told(norm, curved, images, counted):
    for seed in range(2):
        model = counted(curved(48, 5))
        x, y = images(model.model, 4, 3, 4, 4)
        one = slice(seed, seed + 1)
        rng = torch.Generator().manual_seed(seed)
        hopskipjump(model, x[one], y[one], unbounded(norm, x), rng, queries=333)
        assert 333 - 15 <= sum(model.sizes) - 1 <= 333


@each_norm
@pytest.mark.parametrize("queries", [40, 43, 47])
def test_steps_that_never_fool_are_paid_for_like_the_others(norm, queries, counted, rng):
    """Few numbers make bisections short, and labels like noise make a step's search long."""

    def answers(x):
        fools = (x.double().flatten(1).sum(1) * 1e5).floor() % 24 == 0
        return torch.stack([torch.full(fools.shape, 0.5), fools.float()], 1)

    model, x = counted(answers), torch.full((1, 2), 0.5)
    x[:, 0] = 0.500004  # right as it is
    y = torch.zeros(1, dtype=torch.long)
    assert answers(x).argmax(1) == y
    for _ in range(3):
        model.sizes.clear()
        hopskipjump(model, x, y, unbounded(norm, x), rng, queries=queries, probes=3)
        assert sum(model.sizes) <= 1 + queries


def test_looks_for_a_start_as_long_as_it_may(counted, rng):
    model = counted(lambda x: torch.tensor([[1.0, 0.0]]).repeat(len(x), 1))
    x = torch.full((3, 1, 4, 4), 0.5)
    threat = ThreatModel(norm="l2", eps=0.5)
    found = hopskipjump(model, x, torch.zeros(3, dtype=torch.long), threat, rng, queries=50)
    assert torch.equal(found.x_adv, x)
    assert (found.step == -1).all()
    assert sum(model.sizes) == 3 * 51


@pytest.mark.parametrize("where", ["dark", "bright"])
def test_finds_a_start_where_grey_noise_never_fools(where, rng):
    """Uniform noise has a mean of one half in every image large enough."""

    def answers(x):
        mean = x.flatten(1).mean(1)
        far = 0.25 - mean if where == "dark" else mean - 0.75
        return torch.stack([torch.zeros_like(far), far], 1)

    x = torch.full((4, 3, 8, 8), 0.5)
    threat = unbounded("l2", x)
    found = hopskipjump(answers, x, torch.zeros(4, dtype=torch.long), threat, rng, queries=500)
    assert (answers(found.x_adv).argmax(1) == 1).all()


@each_norm
def test_shrinking_keeps_the_stated_share_of_the_distance(norm):
    x, far = torch.rand(2, 5, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    threat = unbounded(norm, x)
    share = torch.tensor([0.0, 0.1, 0.5, 0.9, 1.0])
    points = GEOMETRY[norm].shrink(x, far, share)
    assert torch.allclose(threat.distance(x, points), share * threat.distance(x, far), atol=1e-5)


@each_norm
def test_what_is_too_far_is_projected_and_not_called_fallen(norm, affine, images, counted, rng):
    model = affine(48, 3)
    x, y = images(model, 4, 3, 4, 4, low=0.4, high=0.6)
    threat = ThreatModel(norm=norm, eps=0.5 * float(model.distance(x, y, norm).min()))
    watched = counted(model)
    found = hopskipjump(watched, x, y, threat, rng, queries=300)
    assert (found.step == -1).all()
    assert threat.contains(x, found.x_adv).all()
    assert not torch.equal(found.x_adv, x)
    assert sum(watched.sizes) <= 4 * (300 + 2)  # as it came, and where it was projected to
