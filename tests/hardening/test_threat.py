"""The geometry every attack relies on: bounds to the bit, and no number that is not finite."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from scipy.optimize import minimize

from hardening.balls import SLACK, per_image, spread
from hardening.spec import one_line
from hardening.threat import ThreatModel

NORMS = ["linf", "l2", "l1", "l0"]
each_norm = pytest.mark.parametrize("norm", NORMS)


def images(count=8, shape=(3, 6, 6), seed=0):
    return torch.rand(count, *shape, generator=torch.Generator().manual_seed(seed))


def noise(x, size, seed=1):
    return size * torch.randn(x.shape, generator=torch.Generator().manual_seed(seed))


@settings(deadline=None, max_examples=300)
@given(
    norm=st.sampled_from(NORMS),
    eps=st.floats(1e-4, 5),
    size=st.floats(1e-3, 100),
    shape=st.sampled_from([(4,), (1, 8, 8), (3, 16, 16)]),
    seed=st.integers(0, 999),
)
def test_a_projected_point_lies_inside_and_stays_there(norm, eps, size, shape, seed):
    threat, x = ThreatModel(norm=norm, eps=eps), images(4, shape, seed)
    x_adv = threat.project(x, x + noise(x, size, seed))
    assert threat.contains(x, x_adv).all()
    assert torch.equal(threat.project(x, x_adv), x_adv)


@pytest.mark.parametrize("eps", [0.001, 0.1, 3.0])
def test_large_images_are_projected_inside_l2(eps):
    """150,528 float32 roundings must not add up to a step outside."""
    threat, x = ThreatModel(norm="l2", eps=eps), images(2, (3, 224, 224))
    for size in (0.01, 1.0):
        x_adv = threat.project(x, x + noise(x, size))
        assert ((x_adv.double() - x.double()).flatten(1).norm(dim=1) <= eps).all()


@each_norm
def test_points_inside_are_left_alone_bit_for_bit(norm):
    threat, x = ThreatModel(norm=norm, eps={"l1": 5, "l0": 108}.get(norm, 0.5)), images()
    inside = (x + noise(x, 0.01)).clamp(0, 1)
    assert threat.contains(x, inside).all()
    assert torch.equal(threat.project(x, inside), inside)


def test_an_l2_point_outside_comes_to_the_border():
    threat, x = ThreatModel(norm="l2", eps=0.2), 0.3 + 0.4 * images()
    distance = threat.distance(x, threat.project(x, x + noise(x, 1.0)))
    assert torch.allclose(distance, torch.full((8,), 0.2), rtol=1e-4)


def test_linf_bounds_are_the_float32_sums():
    threat = ThreatModel(norm="linf", eps="8/255")
    x = torch.arange(256).float()[:, None] / 255
    top, bottom = threat.project(x, x + 1), threat.project(x, x - 1)
    assert torch.equal(top, (x + 8 / 255).clamp(0, 1))
    assert torch.equal(bottom, (x - 8 / 255).clamp(0, 1))
    # In float64 the float32 bounds may be a few 1e-8 too wide, and no more.
    assert ((top.double() - x.double()) <= 8 / 255 + 6e-8).all()


@pytest.mark.parametrize("direction", [float("inf"), -float("inf")])
def test_one_bit_beyond_a_linf_bound_is_outside(direction):
    threat, x = ThreatModel(norm="linf", eps="8/255"), 0.2 + 0.6 * images()
    border = threat.project(x, x + direction)
    assert threat.contains(x, border).all()
    beyond = border.clone()
    beyond[:, 0, 0, 0] = torch.nextafter(beyond[:, 0, 0, 0], torch.tensor(direction))
    assert not threat.contains(x, beyond).any()


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_outside_is_told_from_inside(norm):
    threat, x = ThreatModel(norm=norm, eps=0.1), torch.full((1, 4), 0.5)
    assert threat.contains(x, x + torch.tensor([0.0999, 0, 0, 0]))
    assert not threat.contains(x, x + torch.tensor([0.1001, 0, 0, 0]))
    assert not threat.contains(x, x + torch.tensor([float("nan"), 0, 0, 0]))
    edge = torch.ones(1, 4)
    assert not threat.contains(edge, edge + torch.tensor([1e-6, 0, 0, 0]))


@pytest.mark.parametrize("norm", ["l2", "l1"])
def test_rounding_is_forgiven_and_no_more(norm):
    threat, x = ThreatModel(norm=norm, eps=0.25), torch.zeros(1, 1)
    assert threat.contains(x, x + 0.25 * (1 + SLACK / 2))
    assert not threat.contains(x, x + 0.25 * (1 + 2 * SLACK))


def test_l0_counts_the_numbers_that_differ_in_any_bit():
    threat, x = ThreatModel(norm="l0", eps=2.9), torch.full((1, 4), 0.5)
    above = torch.nextafter(x, torch.ones(()))
    for count, inside in ((2, True), (3, False)):
        x_adv = torch.where(torch.arange(4) < count, above, x)
        assert threat.contains(x, x_adv).item() is inside
        assert threat.distance(x, x_adv).item() == count
    assert not threat.contains(x, x + torch.tensor([float("nan"), 0, 0, 0]))
    assert not threat.contains(x, x + torch.tensor([0.6, 0, 0, 0]))


def test_a_linf_sample_fills_the_ball():
    threat, x = ThreatModel(norm="linf", eps=0.1), 0.3 + 0.4 * images(64)
    sample = threat.sample(x, torch.Generator().manual_seed(0))
    delta = sample - x
    assert threat.contains(x, sample).all()
    assert float(delta.abs().mean()) == pytest.approx(0.05, rel=0.02)
    assert float(delta.mean()) == pytest.approx(0, abs=0.002)


def test_an_l2_sample_is_uniform_in_the_ball():
    """The mean radius of a d-ball is d / (d + 1) of eps."""
    threat, x = ThreatModel(norm="l2", eps=0.1), torch.full((4000, 3), 0.5)
    sample = threat.sample(x, torch.Generator().manual_seed(0))
    assert threat.contains(x, sample).all()
    assert float(threat.distance(x, sample).mean()) == pytest.approx(0.075, rel=0.02)


def test_an_l1_sample_is_uniform_in_the_ball():
    """The mean radius of a d-ball is d / (d + 1) of eps, and all directions are alike."""
    threat, x = ThreatModel(norm="l1", eps=0.1), torch.full((4000, 3), 0.5)
    sample = threat.sample(x, torch.Generator().manual_seed(0))
    assert threat.contains(x, sample).all()
    assert float(threat.distance(x, sample).mean()) == pytest.approx(0.075, rel=0.02)
    assert (sample - x).abs().mean(0).tolist() == pytest.approx(3 * [0.025], rel=0.05)
    assert (sample - x).mean(0).tolist() == pytest.approx(3 * [0.0], abs=0.002)


def test_an_l0_sample_changes_as_many_numbers_as_it_may_to_anything():
    threat, x = ThreatModel(norm="l0", eps=3), torch.full((4000, 6), 0.5)
    sample = threat.sample(x, torch.Generator().manual_seed(0))
    changed = sample != x
    assert (changed.sum(1) == 3).all()
    assert changed.float().mean(0).tolist() == pytest.approx(6 * [0.5], abs=0.03)
    assert float(sample[changed].std()) == pytest.approx(12**-0.5, rel=0.03)


@each_norm
@pytest.mark.parametrize("eps", ["8/255", 0.001, 2.0])
def test_samples_lie_inside_and_depend_on_the_seed_alone(norm, eps):
    threat, x = ThreatModel(norm=norm, eps=20 if norm == "l0" else eps), images()
    first, second, third = (
        threat.sample(x, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    )
    assert threat.contains(x, first).all()
    assert torch.equal(first, second)
    assert not torch.equal(first, third)


@pytest.mark.parametrize(("norm", "power"), [("l2", 2), ("l1", 1), ("l0", 2)])
@pytest.mark.parametrize("size", [1e-38, 1e-30, 1e-12, 1.0, 1e12, 1e30])
def test_an_ascent_has_unit_length_at_any_scale(norm, power, size):
    gradient = noise(images(), 1.0) * size
    ascent = ThreatModel(norm=norm, eps=1).ascend(gradient)
    assert torch.allclose(ascent.flatten(1).norm(power, dim=1), torch.ones(8))
    assert (ascent * gradient >= 0).all()


@each_norm
def test_a_zero_gradient_ascends_nowhere(norm):
    assert torch.equal(ThreatModel(norm=norm, eps=1).ascend(torch.zeros(2, 3)), torch.zeros(2, 3))


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_an_ascent_is_the_steepest_of_its_length(norm):
    """No other direction of the norm's unit ball has a larger product with the gradient."""
    gradient = noise(images(1), 1.0)
    threat = ThreatModel(norm=norm, eps=1)
    best = (threat.ascend(gradient) * gradient).sum()
    for seed in range(20):
        other = noise(gradient, 1.0, seed)
        other = other / threat.distance(torch.zeros_like(other), other)
        assert (other * gradient).sum() <= best


def test_an_l1_ascent_moves_the_steepest_numbers():
    gradient = torch.tensor([[3.0, -5.0, 0.0, 1.0], [0.0, 0.0, -1e-9, 0.0]])
    half, least = (spread(gradient, torch.full((2,), share)) for share in (0.5, 0.01))
    assert half.tolist() == [pytest.approx([0.375, -0.625, 0, 0]), [0, 0, -1, 0]]
    assert least.tolist() == [[0, -1, 0, 0], [0, 0, -1, 0]]


def test_l1_ascents_end_in_the_best_point_however_many_numbers_each_moves():
    """Steps of equal size in all numbers would share the budget out for ever."""
    threat, x = ThreatModel(norm="l1", eps=0.3), torch.full((1, 60), 0.5)
    slope = 0.9 ** torch.arange(60)[None]
    point = x
    for _ in range(100):
        point = threat.project(x, point + 0.1 * threat.ascend(slope))
    assert (point - x)[0, 0].item() == pytest.approx(0.3, rel=1e-3)


@each_norm
def test_no_point_of_the_set_is_higher_than_the_summit(norm):
    """With an active range too, and with the points that ascent by ascent leads to."""
    x, eps = images(6, (3, 4)), {"linf": 0.4, "l2": 0.3, "l1": 1.7, "l0": 3}[norm]
    if norm == "l2":  # for which the range is not taken into account
        x = 0.35 + 0.3 * x
    threat, slope = ThreatModel(norm=norm, eps=eps), noise(x, 1.0)
    summit = threat.summit(x, slope)
    assert threat.contains(x, summit).all()
    height = (summit * slope).sum((1, 2))
    rng, climber = torch.Generator().manual_seed(0), x
    for _ in range(100):
        climber = threat.project(x, climber + 0.1 * threat.ascend(slope))
        for point in (climber, threat.sample(x, rng), threat.project(x, x + noise(x, 2.0))):
            assert ((point * slope).sum((1, 2)) <= height + 1e-5).all()


@pytest.mark.parametrize("norm", ["l1", "l0"])
def test_the_summit_is_the_best_corner(norm):
    """Linear programs have their solution at a corner; with whole numbers all can be listed."""
    x, slope = torch.tensor([[0.0, 1.0, 0.0, 0.5]]), torch.tensor([[1.0, -3.0, -9.0, 2.0]])
    summit = ThreatModel(norm=norm, eps=1 if norm == "l0" else 1.25).summit(x, slope)
    # The third cannot go down. L1 spends 1 on the second, the rest on the fourth.
    expected = [0.0, 0.0, 0.0, 0.5 if norm == "l0" else 0.75]
    assert summit[0].tolist() == pytest.approx(expected, abs=1e-6)


@settings(deadline=None, max_examples=40)
@given(
    eps=st.floats(0.01, 4),
    size=st.sampled_from([0.1, 1.0, 3.0]),
    shape=st.sampled_from([(1,), (2,), (7,), (2, 2, 3)]),
    seed=st.integers(0, 999),
)
def test_an_l1_projection_is_the_nearest_point_of_the_set(eps, size, shape, seed):
    """Against a solver of quadratic programs that knows nothing of thresholds.

    Its variables are up and down, at least 0 and within the range, with a sum of at most eps.
    """
    x = images(1, shape, seed).round(decimals=1)  # ends of the range occur
    wanted = x + noise(x, size, seed)
    got = ThreatModel(norm="l1", eps=eps).project(x, wanted)
    start, aim = (tensor.flatten().double().numpy() for tensor in (x, wanted))
    d = len(start)

    def objective(parts):
        error = start + parts[:d] - parts[d:] - aim
        return 0.5 * error @ error, np.concatenate([error, -error])

    solution = minimize(
        objective,
        np.zeros(2 * d),
        jac=True,
        method="SLSQP",
        bounds=[(0, 1 - v) for v in start] + [(0, v) for v in start],
        constraints={
            "type": "ineq",
            "fun": lambda parts: eps - parts.sum(),
            "jac": lambda _: -np.ones(2 * d),
        },
        options={"maxiter": 500, "ftol": 1e-12},
    )
    nearest = start + solution.x[:d] - solution.x[d:]
    assert solution.success
    assert np.abs(got.flatten().numpy() - nearest).max() < 2e-4


@settings(deadline=None, max_examples=60)
@given(eps=st.integers(1, 5), seed=st.integers(0, 999))
def test_an_l0_projection_is_the_nearest_point_of_the_set(eps, seed):
    """Against all supports of at most `eps` of five numbers."""
    x = images(1, (5,), seed)
    wanted = x + noise(x, 1.0, seed)
    got = ThreatModel(norm="l0", eps=eps).project(x, wanted.clamp(0, 1))
    errors = []
    for support in itertools.combinations(range(5), eps):
        point = x.clone()
        point[:, support] = wanted.clamp(0, 1)[:, support]
        errors.append(float((point - wanted.clamp(0, 1)).square().sum()))
    assert float((got - wanted.clamp(0, 1)).square().sum()) == pytest.approx(min(errors), abs=1e-7)


def test_an_l1_projection_never_overshoots_by_a_bit():
    """150,528 float32 roundings may add up; each is made inward."""
    threat, x = ThreatModel(norm="l1", eps=50), images(2, (3, 224, 224))
    for size in (0.001, 0.1, 10.0):
        x_adv = threat.project(x, x + noise(x, size))
        distance = (x_adv.double() - x.double()).flatten(1).abs().sum(1)
        assert (distance <= 50).all()
        assert (distance > 50 * (1 - 1e-3)).all()


@each_norm
def test_without_a_bound_everything_in_range_is_inside(norm):
    threat = ThreatModel(norm=norm, eps=0.1).unbounded((3, 6, 6))
    x = images()
    for x_adv in (1 - x.round(), images(seed=5)):
        assert threat.contains(x, x_adv).all()
        assert torch.equal(threat.project(x, x_adv), x_adv)


@each_norm
def test_distance_is_the_norm(norm):
    delta = torch.tensor([[3.0, -4.0], [0.0, 0.0]])
    expected = {"linf": [4.0, 0.0], "l2": [5.0, 0.0], "l1": [7.0, 0.0], "l0": [2.0, 0.0]}[norm]
    assert ThreatModel(norm=norm, eps=1).distance(0 * delta, delta).tolist() == expected


@each_norm
def test_memory_format_and_empty_batches_are_no_matter(norm):
    threat, x = ThreatModel(norm=norm, eps=3 if norm == "l0" else 0.1), images()
    last = x.contiguous(memory_format=torch.channels_last)
    moved = x + noise(x, 1.0)
    assert torch.equal(threat.project(last, moved), threat.project(x, moved))
    assert torch.equal(threat.contains(last, moved), threat.contains(x, moved))
    empty = x[:0]
    assert threat.project(empty, empty).shape == empty.shape
    assert threat.sample(empty, torch.Generator()).shape == empty.shape
    assert threat.contains(empty, empty).shape == (0,)


def test_per_image_broadcasts_over_any_rank():
    for shape in [(2,), (2, 3), (2, 3, 4, 5)]:
        scaled = torch.ones(shape) * per_image(torch.tensor([1.0, 2.0]), torch.ones(shape))
        assert scaled[1].unique().tolist() == [2.0]


@pytest.mark.parametrize(
    ("text", "eps"),
    [("8/255", 8 / 255), (" 8 / 255 ", 8 / 255), ("0.3", 0.3), (2, 2.0), ("1e-3", 1e-3)],
)
def test_eps_may_be_a_fraction(text, eps):
    assert ThreatModel(eps=text).eps == eps


@pytest.mark.parametrize(
    "eps",
    [0, -1, "0", "-8/255", "8/0", "eight", "", "8/255/2", "nan", "inf", float("nan"), None, []],
)
def test_an_eps_without_meaning_is_refused_in_one_line_that_names_it(eps):
    with pytest.raises(ValidationError) as caught:
        ThreatModel(eps=eps)
    text = one_line(caught.value, "threat")
    assert text.startswith("threat.eps: ")
    assert "\n" not in text


def test_a_bad_fraction_is_quoted_with_an_example():
    with pytest.raises(
        ValidationError, match=r"got '8/0', expected a number or a fraction such as 8/255"
    ):
        ThreatModel(eps="8/0")


def test_unknown_norms_and_fields_are_refused():
    with pytest.raises(ValidationError, match="'linf', 'l2', 'l1' or 'l0'"):
        ThreatModel(norm="l7", eps=1)
    with pytest.raises(ValidationError, match="epsilon"):
        ThreatModel(eps=1, epsilon=1)


def test_scaling_keeps_the_norm_and_a_threat_survives_json():
    threat = ThreatModel(norm="l2", eps="1/2").scaled(3)
    assert threat == ThreatModel(norm="l2", eps=1.5)
    assert ThreatModel.model_validate_json(threat.model_dump_json()) == threat
    assert str(threat) == "l2 eps 1.5"
