"""Universal perturbations: held out by construction, in the ball, far better than noise."""

import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

from attacks.universal import _deepfool_step, _to_ball, fit_universal, fooling_rates, universal
from hardening.evidence import Fooling
from hardening.threat import ThreatModel

EPS = {"linf": 0.2, "l2": 1.0, "l1": 5.0}
each_norm = pytest.mark.parametrize("norm", EPS)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def digits():
    """A small network, and 150 digits it has not seen and gets right."""
    x, y = load_digits(return_X_y=True)
    x = torch.tensor(x, dtype=torch.float32).view(-1, 1, 8, 8) / 16
    y = torch.tensor(y)
    order = torch.randperm(len(x), generator=seeded())
    x, y = x[order], y[order]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Flatten(), nn.Linear(128, 10),
        )  # fmt: skip
        optimizer = torch.optim.Adam(model.parameters(), 3e-3)
        for _ in range(8):
            for batch in torch.randperm(1200).split(32):
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(x[batch]), y[batch]).backward()
                optimizer.step()
    right = (model(x[1200:]).argmax(1) == y[1200:]).nonzero()[:150, 0] + 1200
    assert len(right) == 150
    return model.eval(), x[right], y[right]


@pytest.mark.parametrize(("norm", "factor"), [("linf", 3), ("l2", 3), ("l1", 1.5)])
def test_fools_far_more_often_than_noise_of_its_size(norm, factor, digits):
    """In L1 the noise is strong, too: it turns a few pixels over."""
    model, x, y = digits
    threat = ThreatModel(norm=norm, eps=EPS[norm])
    found = universal(model, x, y, threat, seeded())
    rates = fooling_rates(model, x, found.x_adv, threat, seeded(1))
    assert rates.universal > 0.3
    assert rates.universal >= factor * rates.noise


def test_the_deepfool_form_fools_more_often_than_noise(digits):
    model, x, y = digits
    x, y = x[:60], y[:60]
    threat = ThreatModel(norm="l2", eps=EPS["l2"])
    found = universal(model, x, y, threat, seeded(), method="deepfool", passes=1)
    rates = fooling_rates(model, x, found.x_adv, threat, seeded(1))
    assert rates.universal >= 3 * rates.noise
    assert rates.universal > 0.1


@pytest.mark.parametrize("method", ["sgd", "deepfool"])
def test_no_image_meets_a_perturbation_that_has_seen_it(method, digits):
    """Change one image: its own perturbation stays, bit for bit, and the other half's may not."""
    model, x, y = digits
    x, y = 0.4 + 0.2 * x[:16], y[:16]  # so far inside that x + v is never cut
    y = model(x).argmax(1)
    threat = ThreatModel(norm="l2", eps=0.3)
    first = universal(model, x, y, threat, seeded(), method=method, passes=2).x_adv - x
    order = _order(len(x))
    seen_by_second_half = order[: len(x) // 2]
    changed = x.clone()
    one = seen_by_second_half[0]
    changed[one] = changed[one].flip(-1)
    labels = model(changed).argmax(1)
    second = universal(model, changed, labels, threat, seeded(), method=method, passes=2).x_adv
    second = second - changed
    same_half, other_half = seen_by_second_half, order[len(x) // 2 :]
    assert torch.allclose(first[same_half], second[same_half], atol=1e-6)
    assert not torch.allclose(first[other_half], second[other_half], atol=1e-4)


def _order(count):
    """The split that `universal` makes, after the streams of its book."""
    rng = seeded()
    torch.randint(2**62, (count,), generator=rng)
    return torch.randperm(count, generator=rng)


def test_all_images_of_a_half_get_the_same_perturbation(digits):
    model, x, _ = digits
    x = 0.4 + 0.2 * x[:21]
    threat = ThreatModel(norm="linf", eps=0.05)
    delta = universal(model, x, model(x).argmax(1), threat, seeded(), passes=2).x_adv - x
    order = _order(21)
    for half in (order[:10], order[10:]):
        assert torch.allclose(delta[half], delta[half[:1]], atol=1e-6)
    assert not torch.allclose(delta[order[0]], delta[order[-1]], atol=1e-3)


@each_norm
@pytest.mark.parametrize("method", ["sgd", "deepfool"])
def test_the_perturbation_itself_lies_in_the_ball(norm, method, digits):
    model, x, y = digits
    for factor in (0.01, 1.0):
        threat = ThreatModel(norm=norm, eps=EPS[norm] * factor)
        passes = 12 if method == "sgd" else 1  # far beyond the ball, were v not put back
        v = fit_universal(model, x[:24], y[:24], threat, seeded(), method=method, passes=passes)
        grey = torch.zeros(1, *v.shape)
        assert threat.distance(grey, v[None]) <= threat.eps * (1 + 1e-5)
        assert threat.distance(grey, v[None]) > 0.3 * threat.eps


@each_norm
def test_points_of_the_ball_stay_and_signs_are_kept(norm):
    threat = ThreatModel(norm=norm, eps=EPS[norm])
    v = torch.randn(1, 1, 8, 8, generator=seeded())
    small = v * 0.5 * EPS[norm] / threat.distance(torch.zeros_like(v), v)
    assert torch.equal(_to_ball(threat, small), small)
    large = _to_ball(threat, 9 * v)
    assert (large * v >= 0).all()
    assert (large < 0).any()


def test_on_a_straight_model_one_perturbation_fools_a_whole_side(affine, images):
    model = affine(48, 2)
    x, y = images(model, 60, 3, 4, 4, low=0.45, high=0.55)
    x, y = x[y == 0], y[y == 0]
    farthest = float(model.distance(x, y, "linf").max())
    for factor, all_fall in ((1.05, True), (0.0, False)):
        eps = farthest * factor or 0.99 * float(model.distance(x, y, "linf").min())
        threat = ThreatModel(norm="linf", eps=eps)
        found = universal(model, x, y, threat, seeded())
        assert ((found.step == 1) if all_fall else (found.step == -1)).all()


def test_the_deepfool_step_is_the_nearest_border_of_a_straight_model(random_affine, images):
    model = random_affine(48, 5)
    x, y = images(model, 6, 3, 4, 4, low=0.45, high=0.55)
    for image, label, distance in zip(x, y, model.distance(x, y, "l2").tolist(), strict=True):
        step = _deepfool_step(model, image[None], label[None])
        assert float(step.norm()) == pytest.approx(1.02 * distance, rel=0.01)
        assert model(image + step).argmax(1) != label


@pytest.mark.parametrize("count", [0, 1, 2])
def test_a_half_without_images_brings_no_perturbation(count, digits):
    model, x, y = digits
    found = universal(model, x[:count], y[:count], ThreatModel(norm="l2", eps=1), seeded())
    assert found.x_adv.shape == x[:count].shape
    if count == 1:
        assert torch.equal(found.x_adv, x[:1])


def test_costs_what_it_says(digits, counted):
    model, x, y = digits
    watched = counted(model)
    universal(watched, x[:50], y[:50], ThreatModel(norm="linf", eps=0.01), seeded(), passes=3)
    assert sum(watched.sizes) == 50 * (3 + 2)
    assert sum(watched.backwards) == 50 * 3


def test_fooling_counts_changed_labels_not_errors():
    def answers(x):  # three classes by brightness
        mean = x.flatten(1).mean(1)
        return torch.stack([-(mean - at).abs() for at in (0.0, 0.5, 1.0)], 1)

    x = torch.tensor([0.1, 0.2, 0.3, 0.9]).view(4, 1, 1, 1).expand(4, 1, 4, 4)
    x_adv = torch.tensor([0.1, 0.4, 0.6, 0.95]).view(4, 1, 1, 1).expand(4, 1, 4, 4)
    threat = ThreatModel(norm="linf", eps=0.001)
    rates = fooling_rates(answers, x, x_adv, threat, seeded())
    assert rates == Fooling(images=4, universal=0.25, noise=0.0)  # 0.3 was 0.5's already


@each_norm
def test_fooling_draws_noise_from_the_border_for_each_image(norm):
    threat = ThreatModel(norm=norm, eps=0.25)
    grey = torch.full((200, 1, 5, 5), 0.5)

    def answers(x):  # half of the border is another class, and nothing inside
        border = threat.distance(grey[: len(x)], x) > 0.999 * threat.eps
        up = x.flatten(1).sum(1) > 12.5
        return torch.stack([torch.full_like(x[:, 0, 0, 0], 0.5), (border & up).float()], 1)

    rates = fooling_rates(answers, grey, grey, threat, seeded())
    assert rates.universal == 0
    assert rates.noise == pytest.approx(0.5, abs=0.15)
    none = fooling_rates(answers, grey[:0], grey[:0], threat, seeded())
    assert none == Fooling(images=0, universal=0.0, noise=0.0)


def test_fooling_repeats_itself(digits):
    model, x, _ = digits
    threat = ThreatModel(norm="linf", eps=0.3)
    assert fooling_rates(model, x, x, threat, seeded(5)) == fooling_rates(
        model, x, x, threat, seeded(5)
    )
