"""Gradients of one model against another: where they go, and who says when to stop."""

from functools import partial
from math import exp

import pytest
import torch

from attacks.apgd import apgd
from attacks.fgsm import fgsm
from attacks.pgd import pgd
from attacks.transfer import transfer
from hardening.carried import Carried
from hardening.errors import ConfigError
from hardening.spec import Spec, bind
from hardening.threat import ThreatModel

PLAIN = {"momentum": 0.0, "diversity": 0.0}
SHALLOW = 0.3  # the surrogate's border lies at this share of the target's distance


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def borders(affine, images):
    """A target, a surrogate whose border is parallel and nearer, images, the target's distance."""
    target, surrogate = affine(48, 2), affine(48, 2)
    x = images(target, 8, 3, 4, 4, low=0.45, high=0.55)[0]
    y = torch.zeros(len(x), dtype=torch.long)
    with torch.no_grad():
        target.bias[1] -= target(x)[:, 1].amax() + 2
        distance = target.distance(x, y, "linf").amax()
        surrogate.bias[1] = target.bias[1] + (1 - SHALLOW) * distance * target.weight[1].abs().sum()
        x = x[surrogate(x).argmax(1) == 0]
    assert len(x) >= 3
    return target, surrogate, x, y[: len(x)], float(distance)


CARRIERS = {
    "transfer": transfer,
    "transfer-ce": partial(transfer, loss="ce"),
    "pgd": partial(pgd, loss="margin"),
    "apgd": partial(apgd, steps=30, loss="margin"),
    "fgsm": partial(fgsm, loss="margin"),
}


@pytest.mark.parametrize("attack", CARRIERS.values(), ids=CARRIERS)
def test_a_carried_attack_goes_on_beyond_the_border_of_its_surrogate(attack, borders):
    target, surrogate, x, y, distance = borders
    threat = ThreatModel(eps=distance * 1.05)
    x_adv, step = attack(Carried(target, surrogate), x, y, threat, seeded())
    assert (target(x_adv).argmax(1) != y).all()
    assert (step > 0).all()


@pytest.mark.parametrize("name", ["transfer", "pgd"])
def test_left_alone_with_the_surrogate_it_stops_there(name, borders):
    target, surrogate, x, y, distance = borders
    threat = ThreatModel(eps=distance * 1.05)
    x_adv = CARRIERS[name](surrogate, x, y, threat, seeded()).x_adv
    assert (surrogate(x_adv).argmax(1) != y).all()
    assert (target(x_adv).argmax(1) == y).all()


def test_what_fools_the_target_on_the_way_is_kept(borders):
    """Here the target's border is the nearer one, and the surrogate never falls."""
    surrogate, target, x, y, distance = borders
    threat = ThreatModel(eps=distance * 0.8)
    x_adv, step = transfer(Carried(target, surrogate), x, y, threat, seeded())
    assert (surrogate(x_adv).argmax(1) == y).all()
    assert (target(x_adv).argmax(1) != y).all()
    assert (step < 10).all()


class Spotlight:
    """The k-th gradient pass has a gradient at pixel k alone; class 1 never wins."""

    def __init__(self, *slopes):
        self.slopes, self.passes = slopes, 0

    def __call__(self, x):
        score = 0 * x.flatten(1).sum(1)
        if x.requires_grad:
            score = score + x.flatten(1)[:, self.passes] * self.slopes[self.passes]
            self.passes += 1
        return torch.stack([torch.ones_like(score), score * 1e-3], dim=1)


@pytest.mark.parametrize(("momentum", "first", "second"), [(0.0, 0.1, 0.1), (1.0, 0.2, 0.1)])
def test_momentum_keeps_going_where_earlier_gradients_pointed(momentum, first, second):
    x, y = torch.full((1, 1, 2, 2), 0.5), torch.zeros(1, dtype=torch.long)
    attack = partial(transfer, steps=2, momentum=momentum, diversity=0.0)
    seen = []

    def watched(points, model=Spotlight(1.0, 1.0)):  # noqa: B008
        seen.append(points.detach().clone())
        return model(points)

    attack(watched, x, y, ThreatModel(eps=0.2), seeded())
    moved = (seen[-1] - x).flatten()
    assert torch.allclose(moved, torch.tensor([first, second, 0.0, 0.0]), atol=1e-6)


def test_gradients_of_any_size_weigh_the_same_in_the_momentum():
    x, y = torch.full((1, 1, 2, 2), 0.5), torch.zeros(1, dtype=torch.long)
    seen = []

    def watched(points, model=Spotlight(1e30, -1e-37)):  # noqa: B008
        seen.append(points.detach().clone())
        return model(points)

    transfer(watched, x, y, ThreatModel(norm="l2", eps=0.2), seeded(), steps=2, diversity=0.0)
    last = (seen[-1] - seen[-3]).flatten()
    assert torch.allclose(last[0], -last[1], atol=1e-6)
    assert last[0] > 0.05


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_a_gradient_of_zero_neither_poisons_nor_ends_the_search(norm):
    """Divided by its own size it would be NaN, and the momentum with it from then on."""
    x, y = torch.full((2, 1, 2, 2), 0.5), torch.zeros(2, dtype=torch.long)
    seen = []

    def watched(points, model=Spotlight(0.0, 1.0, 0.0, 1.0)):  # noqa: B008
        seen.append(points.detach().clone())
        return model(points)

    transfer(watched, x, y, ThreatModel(norm=norm, eps=0.2), seeded(), steps=4, diversity=0.0)
    assert all(points.isfinite().all() for points in seen)
    moved = (seen[-1] - x).flatten(1)
    assert (moved[:, 1] > 0.05).all()
    assert (moved[:, 0] == 0).all()


@pytest.mark.parametrize("kernel", [1, 3, 5])
def test_a_kernel_spreads_the_gradient_as_a_gaussian(kernel):
    x, y = torch.full((1, 2, 9, 9), 0.5), torch.zeros(1, dtype=torch.long)

    def one_pixel(points):
        score = points[:, 0, 4, 4] * 1e-3
        return torch.stack([torch.ones_like(score), score], dim=1)

    threat = ThreatModel(norm="l2", eps=0.1)
    x_adv = transfer(one_pixel, x, y, threat, seeded(), **PLAIN, steps=1, kernel=kernel).x_adv
    moved, reach = (x_adv - x)[0], kernel // 2
    assert int((moved[0] > 0).sum()) == kernel**2
    assert (moved[1] == 0).all()
    if reach:  # the paper's standard deviation is reach / sqrt 3
        fall = exp(-3 / (2 * reach**2))
        for row, column, power in [(4, 5, 1), (3, 4, 1), (5, 5, 2)]:
            assert float(moved[0, row, column] / moved[0, 4, 4]) == pytest.approx(fall**power, 1e-3)


@pytest.mark.parametrize(
    ("diversity", "least", "most"), [(0.0, 0, 0), (0.5, 70, 130), (1.0, 200, 200)]
)
def test_gradients_look_through_shrunk_views_and_verdicts_at_the_points(diversity, least, most):
    x, y = torch.ones(200, 1, 20, 20), torch.zeros(200, dtype=torch.long)
    viewed, judged = [], []

    def model(points):
        (viewed if points.requires_grad else judged).append(points.detach().clone())
        score = points.flatten(1).mean(1) * 1e-3
        return torch.stack([torch.ones_like(score), score], dim=1)

    attack = partial(transfer, steps=1, diversity=diversity)
    attack(model, x, y, ThreatModel(eps=0.001), seeded())
    views = torch.cat(viewed)
    light = views.flatten(1).mean(1)
    assert least <= int((light < 1).sum()) <= most
    assert (light > 0.9**2 - 0.01).all()
    assert (torch.cat(judged) >= 0.999).all()
    if diversity == 1:
        assert light.std() > 0.01
        left, right = (views[..., side].mean((1, 2, 3)) for side in (slice(5), slice(-5, None)))
        assert abs(float((left - right).mean())) < 0.03  # to either side alike
        assert (left - right).std() > 0.05


VARIANTS = {
    "defaults": {},
    "all": {"diversity": 1.0, "kernel": 3, "steps": 4},
    "plain": PLAIN,
}


@pytest.mark.parametrize("params", VARIANTS.values(), ids=VARIANTS)
def test_an_image_is_looked_at_in_the_same_way_in_any_batch(params, norm, curved, images):
    model = curved(3 * 36, 5)
    x, y = images(model, 150, 3, 6, 6)
    threat = ThreatModel(norm=norm, eps=0.015 if norm == "linf" else 0.12)
    attack = partial(transfer, **params)
    alone = attack(model, x[:7], y[:7], threat, seeded()).x_adv
    others = torch.cat([x[:7], x[7:].flip(0)]), torch.cat([y[:7], y[7:].flip(0)])
    assert torch.equal(alone, attack(model, *others, threat, seeded()).x_adv[:7])


def test_views_stay_with_their_images_when_another_falls(curved, images):
    model, threat = curved(3 * 36, 5), ThreatModel(eps=0.01)
    x, y = images(model, 60, 3, 6, 6)
    top = model(x).detach().topk(2, dim=1).values
    weak, middle, strong = (top[:, 0] - top[:, 1]).argsort()[[0, 30, 59]].tolist()
    beside = {}
    for neighbour in (weak, strong):
        pair = [neighbour, middle]
        beside[neighbour] = transfer(model, x[pair], y[pair], threat, seeded(), diversity=1.0)
    assert 1 <= beside[weak].step[0] <= 3
    assert beside[strong].step[0] == -1
    assert torch.equal(beside[weak].x_adv[1], beside[strong].x_adv[1])


@pytest.mark.parametrize("shape", [(48,), (3, 16), (2, 2, 3, 4)], ids=str)
def test_inputs_that_are_no_images_get_no_views(shape, affine, images):
    model = affine(48, 3)
    x, y = images(model, 6, *shape, low=0.45, high=0.55)
    eps = float(model.distance(x, y, "linf").amax()) * 1.05
    x_adv = transfer(model, x, y, ThreatModel(eps=eps), seeded(), diversity=1.0, kernel=3).x_adv
    assert (model(x_adv).argmax(1) != y).all()


def test_random_models_are_asked_as_often_through_views(curved, images):
    model = curved(3 * 36, 5)
    x, y = images(model, 3, 3, 6, 6)
    passes = []

    def random_one(points):
        passes.append(points.requires_grad)
        return model(points)

    random_one.draws = 4
    transfer(random_one, x, y, ThreatModel(eps=1e-4), seeded(), steps=2, diversity=1.0)
    assert sum(passes) == 2 * 4
    assert len(passes) == 2 * 4 + 3 * 4


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"kernel": 4}, "expected an odd number"),
        ({"diversity": 1.5}, "diversity"),
        ({"momentum": -1}, "momentum"),
    ],
)
def test_meaningless_settings_are_refused(params, message):
    with pytest.raises(ConfigError, match=message):
        bind({"transfer": transfer}, Spec(name="transfer", params=params))
