"""Random noise: how often it must hit, what it draws, what it asks."""

from math import erf

import pytest
import torch

from attacks.noise import _draw, noise
from hardening.threat import ThreatModel

EPS = {"linf": 0.1, "l2": 0.4, "l1": 3.0, "l0": 3}
each_norm = pytest.mark.parametrize("norm", EPS)


def threat_of(norm, factor=1.0):
    return ThreatModel(norm=norm, eps=EPS[norm] * factor)


def drawn(norm, count, images=3, pixels=16):
    x = 0.45 + 0.1 * torch.rand(images, 1, pixels, 1, generator=torch.Generator().manual_seed(1))
    own = [torch.Generator().manual_seed(seed) for seed in range(images)]
    return x, _draw(threat_of(norm), x, count, own)


@each_norm
def test_border_and_inside_take_turns(norm):
    x, points = drawn(norm, 40)
    threat = threat_of(norm)
    sizes = torch.stack([threat.distance(x, points[:, i]) for i in range(40)], 1)
    assert torch.allclose(sizes[:, 0::2], torch.tensor(float(threat.eps)), rtol=1e-4)
    if norm != "l0":  # inside, as many numbers change; only their values are free
        assert (sizes[:, 1::2] < threat.eps * (1 - 1e-4)).float().mean() > 0.8
    for i in range(40):
        assert threat.contains(x, points[:, i]).all()


def test_corners_of_the_cube_are_all_as_likely():
    x, points = drawn("linf", 4000, images=1, pixels=3)
    signs = (points[:, 0::2] > x[:, None]).flatten(2)[0]
    corners = (signs * torch.tensor([1, 2, 4])).sum(1)
    counts = torch.bincount(corners, minlength=8)
    assert counts.sum() == 2000
    assert (counts - 250).abs().max() < 4.5 * 15  # 4.5 standard deviations


def test_directions_on_the_sphere_have_no_preferred_axis():
    x, points = drawn("l2", 4000, images=1, pixels=8)
    ways = (points[0, 0::2] - x).flatten(1) / EPS["l2"]
    assert ways.mean(0).abs().max() < 0.05
    assert (ways.T @ ways / len(ways) - torch.eye(8) / 8).abs().max() < 0.03


@pytest.mark.parametrize("draws", [1, 7])
def test_falls_as_often_as_chance_says_on_a_border_straight_through_the_ball(draws, affine):
    """At `share` of its reach, a corner hits with the binomial's upper tail; half the draws are."""
    pixels, share, images = 64, 0.1, 1500
    model = affine(pixels, 2)
    with torch.no_grad():
        model.weight[1] = model.weight[1].sign()
        model.bias[1] = -0.5 * float(model.weight[1].sum())
    aside = 0.1 * share  # of eps 0.1, in every pixel away from the border
    x = (0.5 - aside * model.weight[1].sign()).detach().expand(images, pixels).clone()
    y = torch.zeros(images, dtype=torch.long)
    found = noise(model, x, y, threat_of("linf"), torch.Generator().manual_seed(0), draws=draws)

    def hit(deviation):
        """Chance that a mean of `pixels` independent numbers passes `share`, by their deviation."""
        return 0.5 * (1 - erf(share * pixels**0.5 / deviation / 2**0.5))

    corner, inside = hit(1.0), hit(3**-0.5)
    expected = 1 - (1 - corner) ** ((draws + 1) // 2) * (1 - inside) ** (draws // 2)
    fell = float((found.step > 0).float().mean())
    # Four standard errors, and the step of the binomial that the normal curve smooths.
    assert abs(fell - expected) < 4 * (expected * (1 - expected) / images) ** 0.5 + 0.06
    assert torch.equal(found.step > 0, model(found.x_adv).argmax(1) != y)


@pytest.mark.parametrize("draws", [1, 2, 5, 300])
def test_asks_exactly_as_often_as_told_where_nothing_falls(draws, affine, images, counted, rng):
    model = counted(affine(48, 3))
    x, y = images(model.model, 5, 3, 4, 4, low=0.1, high=0.1001)
    noise(model, x, y, ThreatModel(norm="linf", eps=0.001), rng, draws=draws)
    assert sum(model.sizes) == 5 * (draws + 1)


def test_stops_soon_after_the_first_success(counted, images, rng):
    def fragile(x):
        moved = (x != 0.5).flatten(1).any(1).float()
        return torch.stack([1 - moved, moved], 1)

    model, x = counted(fragile), torch.full((5, 1, 4, 4), 0.5)
    found = noise(model, x, torch.zeros(5, dtype=torch.long), threat_of("linf"), rng)
    assert (found.step == 1).all()
    assert sum(model.sizes) == 5 * 3


def test_an_image_beyond_the_first_group_fares_the_same_in_any_batch(curved, images):
    model = curved(48, 5)
    x, y = images(model, 150, 3, 4, 4)
    whole, part = (
        noise(model, x[:n], y[:n], threat_of("l2"), torch.Generator().manual_seed(3), draws=9)
        for n in (150, 101)
    )
    assert torch.equal(whole.x_adv[:101], part.x_adv)
    assert torch.equal(whole.step[:101], part.step)


@each_norm
def test_sees_nothing_but_whether_the_label_changed(norm, curved, images):
    model = curved(48, 5)
    x, y = images(model, 20, 3, 4, 4)

    def blurred(x):
        return torch.nn.functional.one_hot(model(x).argmax(1), 5).float() * 3 - 1

    first, second = (
        noise(answers, x, y, threat_of(norm), torch.Generator().manual_seed(0), draws=20)
        for answers in (model, blurred)
    )
    assert torch.equal(first.x_adv, second.x_adv)
    assert torch.equal(first.step, second.step)


@each_norm
def test_every_image_and_every_seed_draws_points_of_its_own(norm, curved, images):
    model = curved(48, 5)
    x = images(model, 1, 3, 4, 4, low=0.49, high=0.51)[0].expand(4, 3, 4, 4).clone()
    y = model(x).argmax(1)
    threat = threat_of(norm, 1e-3 if norm != "l0" else 1)
    first, second = (
        noise(model, x, y, threat, torch.Generator().manual_seed(seed), draws=1).x_adv
        for seed in (1, 2)
    )
    assert not torch.equal(first[0], first[1])
    assert all(not torch.equal(a, b) for a, b in zip(first, second, strict=True))
    rng = torch.Generator().manual_seed(1)
    turned = torch.cat([x[:1], 1 - x[1:]]), torch.cat([y[:1], model(1 - x[1:]).argmax(1)])
    assert torch.equal(noise(model, *turned, threat, rng, draws=1).x_adv[0], first[0])
    x_wrong, y_wrong = x, torch.where(torch.arange(4) == 0, (y + 1) % 5, y)
    rng = torch.Generator().manual_seed(1)  # one that takes no part takes no numbers either
    assert torch.equal(noise(model, x_wrong, y_wrong, threat, rng, draws=1).x_adv[1:], first[1:])
