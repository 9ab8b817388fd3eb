"""SPSA: the slope it estimates, where it gets on a model whose slope is the same everywhere."""

import pytest
import torch

from attacks.fgsm import fgsm
from attacks.losses import margin
from attacks.search import Search
from attacks.spsa import _slope, spsa
from hardening.threat import ThreatModel


def search_on(model, x, y, seed=0):
    return Search(model, x, y, margin, torch.Generator().manual_seed(seed))


def test_the_estimate_is_the_gradient(affine, images):
    model = affine(12, 2)
    x, y = images(model, 4, 3, 2, 2, low=0.4, high=0.6)
    search = search_on(model, x, y)
    slope = _slope(model, search, search.x, 2000, 0.01) / 2000
    exact = (model.weight[1 - y] - model.weight[y]).detach().view(x.shape)
    error = (slope - exact).flatten(1).norm(dim=1) / exact.flatten(1).norm(dim=1)
    assert (error < 4 * (11 / 2000) ** 0.5).all()  # d - 1 other numbers are noise to each


def test_numbers_at_the_ends_of_the_range_count_in_full(affine):
    """There only one point of a pair moves: half the slope, if the other were believed, too."""
    model = affine(12, 2)
    x = (torch.arange(12) % 3 / 2).view(1, 12)
    y = model(x).detach().argmax(1)
    search = search_on(model, x, y)
    slope = (_slope(model, search, x, 4000, 0.01) / 4000)[0]
    exact = (model.weight[1 - y] - model.weight[y]).detach()[0]
    fit = (slope * exact)[x[0] != 0.5].sum() / exact[x[0] != 0.5].square().sum()
    assert float(fit) == pytest.approx(1, abs=0.15)


@pytest.mark.parametrize(("norm", "slack"), [("linf", 0.97), ("l2", 0.97), ("l1", 0.9)])
def test_reaches_the_optimum_of_a_straight_model(norm, slack, affine, images):
    """Nothing falls here, so that every step is made; one exact step is the best there is."""
    model = affine(48, 2)
    x, y = images(model, 4, 3, 4, 4, low=0.45, high=0.55)
    distance = model.distance(x, y, norm)
    threat = ThreatModel(norm=norm, eps=0.9 * float(distance.min()))
    found = spsa(model, x, y, threat, torch.Generator().manual_seed(0), steps=30)
    best = fgsm(model, x, y, threat, torch.Generator().manual_seed(0)).x_adv
    assert (found.step == -1).all()
    assert threat.contains(x, found.x_adv).all()
    start, top = margin(model(x), y).detach(), margin(model(best), y).detach()
    if norm == "l1":  # the best is one number at a time, which one exact step does not reach
        top = margin(model(threat.summit(x, _way(model, x, y))), y).detach()
    gained = (margin(model(found.x_adv), y).detach() - start) / (top - start)
    assert (gained > slack).all()
    assert (gained < 1.001).all()


def _way(model, x, y):
    return (model.weight[1 - y] - model.weight[y]).detach().view(x.shape)


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_flips_labels_a_little_beyond_their_distance(norm, affine, images):
    model = affine(48, 3)
    x, y = images(model, 4, 3, 4, 4, low=0.45, high=0.55)
    for image, label, distance in zip(x, y, model.distance(x, y, norm).tolist(), strict=True):
        threat = ThreatModel(norm=norm, eps=1.15 * distance)
        found = spsa(model, image[None], label[None], threat, torch.Generator(), steps=30)
        assert model(found.x_adv).argmax(1) != label


@pytest.mark.parametrize(("steps", "samples"), [(1, 1), (3, 5), (2, 200)])
def test_asks_exactly_as_often_as_told(steps, samples, affine, images, counted, rng):
    model = counted(affine(48, 3))
    x, y = images(model.model, 5, 3, 4, 4)
    threat = ThreatModel(norm="linf", eps=1e-4)
    spsa(model, x, y, threat, rng, steps=steps, samples=samples)
    assert sum(model.sizes) == 5 * (1 + steps * (2 * samples + 1))
    assert model.backwards == []


def test_an_image_costs_nothing_once_it_has_fallen(affine, images, counted, rng):
    model = counted(affine(48, 3))
    x, y = images(model.model, 5, 3, 4, 4, low=0.45, high=0.55)
    found = spsa(model, x, y, ThreatModel(norm="linf", eps=0.3), rng, steps=50, samples=20)
    assert (found.step > 0).all()
    assert sum(model.sizes) == 5 + 41 * int(found.step.sum())


def test_needs_no_gradients(curved, images, rng):
    model = curved(48, 5)
    x, y = images(model, 16, 3, 4, 4)

    def answers(x):
        return torch.from_numpy(model(x).detach().numpy().copy())

    found = spsa(answers, x, y, ThreatModel(norm="linf", eps=0.1), rng, steps=20, samples=32)
    assert (answers(found.x_adv).argmax(1) != y).sum() > 8


def test_the_model_is_asked_about_pixels_in_range_only(curved, images, rng):
    model, seen = curved(48, 5), []

    def watched(x):
        seen.append((float(x.min()), float(x.max())))
        return model(x)

    x = images(model, 6, 3, 4, 4)[0].round()
    spsa(watched, x, model(x).argmax(1), ThreatModel(norm="l2", eps=0.5), rng, steps=3, delta=0.2)
    assert min(low for low, _ in seen) >= 0
    assert max(high for _, high in seen) <= 1
