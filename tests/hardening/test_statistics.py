"""Intervals cover what they promise; comparisons agree with the textbook."""

import random
from math import comb

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hardening.statistics import accuracy, clopper_pearson, compare, upper_bound_of_none


def outcomes(hits, n):
    return [True] * hits + [False] * (n - hits)


def binomial(n, p):
    return [comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(n + 1)]


def pairs(both, gained, lost, neither):
    first = [True] * both + [False] * gained + [True] * lost + [False] * neither
    second = [True] * both + [True] * gained + [False] * lost + [False] * neither
    return first, second


@pytest.mark.parametrize(
    ("hits", "n", "lower", "upper"),
    [
        # Newcombe (1998), table I, method 3 (Wilson's score without continuity correction).
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
        (29, 29, 0.8830, 1.0),
    ],
)
def test_wilson_intervals_are_the_published_ones(hits, n, lower, upper):
    measured = accuracy(outcomes(hits, n))
    assert measured.lower == pytest.approx(lower, abs=5e-5)
    assert measured.upper == pytest.approx(upper, abs=5e-5)


@given(st.lists(st.booleans(), min_size=1, max_size=200))
def test_an_interval_holds_its_value_and_mirrors(correct):
    measured, mirrored = accuracy(correct), accuracy([not c for c in correct])
    assert measured.correct == sum(correct)
    assert measured.images == len(correct)
    assert 0 <= measured.lower <= measured.value <= measured.upper <= 1
    assert measured.lower < measured.upper
    assert measured.lower == pytest.approx(1 - mirrored.upper, abs=1e-12)


@pytest.mark.parametrize("truth", [0.05, 0.5, 0.93])
def test_the_interval_covers_the_truth_as_often_as_it_says(truth):
    source = random.Random(0)
    known = {hits: accuracy(outcomes(hits, 100)) for hits in range(101)}
    draws = [known[sum(source.random() < truth for _ in range(100))] for _ in range(2000)]
    covered = sum(draw.lower <= truth <= draw.upper for draw in draws) / 2000
    assert 0.93 <= covered <= 0.98


def test_more_images_narrow_the_interval():
    widths = [(a := accuracy(outcomes(n // 2, n))).upper - a.lower for n in (10, 100, 1000)]
    assert widths == sorted(widths, reverse=True)


def test_an_accuracy_over_no_images_is_refused():
    with pytest.raises(ValueError, match="over 0 images"):
        accuracy([])


@pytest.mark.parametrize(
    ("hits", "n", "lower", "upper"),
    [
        # Newcombe (1998), table I, method 5 (Clopper and Pearson's exact interval).
        (81, 263, 0.2527, 0.3676),
        (15, 148, 0.0578, 0.1617),
        (0, 20, 0.0, 0.1684),
        (1, 29, 0.0009, 0.1776),
    ],
)
def test_exact_intervals_are_the_published_ones(hits, n, lower, upper):
    assert clopper_pearson(hits, n) == pytest.approx((lower, upper), abs=5e-5)


@given(st.integers(1, 60), st.data(), st.sampled_from([0.5, 0.95, 0.998]))
def test_at_the_ends_of_an_exact_interval_the_tails_are_what_is_left(n, data, confidence):
    hits = data.draw(st.integers(0, n))
    lower, upper = clopper_pearson(hits, n, confidence)
    tail = (1 - confidence) / 2
    assert sum(binomial(n, lower)[hits:]) == pytest.approx(tail if hits else 1)
    assert sum(binomial(n, upper)[: hits + 1]) == pytest.approx(tail if hits < n else 1)


@pytest.mark.parametrize("n", [5, 30])
def test_each_end_of_an_exact_interval_is_wrong_no_more_often_than_stated(n):
    bounds = [clopper_pearson(hits, n, 0.9) for hits in range(n + 1)]
    for truth in (step / 200 for step in range(201)):
        chances = binomial(n, truth)
        above = sum(c for c, (lower, _) in zip(chances, bounds, strict=True) if lower > truth)
        below = sum(c for c, (_, upper) in zip(chances, bounds, strict=True) if upper < truth)
        assert max(above, below) <= 0.05 + 1e-9


@pytest.mark.parametrize(
    ("hits", "n", "confidence"), [(3, 2, 0.9), (-1, 2, 0.9), (0, 0, 0.9), (1, 2, 1.0)]
)
def test_an_exact_interval_of_nonsense_is_refused(hits, n, confidence):
    with pytest.raises(ValueError, match="expected hits among draws"):
        clopper_pearson(hits, n, confidence)


def test_none_in_n_bounds_a_share_by_the_rule_of_three():
    for n in (1, 30, 300):
        assert (1 - upper_bound_of_none(n)) ** n == pytest.approx(0.05)
    assert upper_bound_of_none(300) == pytest.approx(3 / 300, rel=0.01)
    assert upper_bound_of_none(300) < 0.01
    with pytest.raises(ValueError, match="got 0 draws"):
        upper_bound_of_none(0)


@given(gained=st.integers(0, 40), lost=st.integers(0, 40))
def test_the_p_value_is_mcnemars_exact_one(gained, lost):
    """Two-sided binomial tail of the discordant pairs, written out."""
    n = gained + lost
    tail = sum(comb(n, k) for k in range(min(gained, lost) + 1)) / 2**n
    measured = compare(*pairs(20, gained, lost, 20))
    assert measured.p_value == pytest.approx(min(1.0, 2 * tail), rel=1e-9)
    assert (measured.gained, measured.lost) == (gained, lost)
    assert measured.difference == pytest.approx((gained - lost) / (n + 40))


def test_the_textbooks_example():
    """Agresti, Categorical Data Analysis (2002), table 10.1: approval 944 to 880 of 1600."""
    measured = compare(*pairs(794, 86, 150, 570))
    assert measured.difference == pytest.approx(-0.04)
    assert measured.lower == pytest.approx(-0.0587, abs=2e-4)
    assert measured.upper == pytest.approx(-0.0212, abs=2e-4)
    assert measured.p_value < 1e-4
    assert not measured.better


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=100))
def test_the_other_way_round_is_the_mirror_image(both):
    first, second = [a for a, _ in both], [b for _, b in both]
    there, back = compare(first, second), compare(second, first)
    assert there.difference == -back.difference
    assert there.lower == pytest.approx(-back.upper)
    assert there.p_value == pytest.approx(back.p_value)
    assert not (there.better and back.better)
    assert -1 <= there.lower <= there.difference <= there.upper <= 1


def test_the_same_outcomes_are_no_better_than_themselves():
    measured = compare(outcomes(5, 9), outcomes(5, 9))
    assert measured.p_value == 1
    assert measured.difference == 0
    assert not measured.better


def test_a_gain_within_the_noise_is_not_better_and_a_real_one_is():
    assert not compare(*pairs(50, 8, 3, 39)).better
    assert compare(*pairs(50, 12, 1, 37)).better


def discordances(n, gain, loss):
    """Chance of each (gained, lost) among `n` images, and what the comparison makes of it."""
    for gained in range(n + 1):
        for lost in range(n + 1 - gained):
            ways = comb(n, gained) * comb(n - gained, lost)
            chance = ways * gain**gained * loss**lost * (1 - gain - loss) ** (n - gained - lost)
            yield chance, (gained, lost)


@pytest.fixture(scope="module")
def compared():
    """Every comparison of 30 images by (gained, lost)."""
    n = 30
    return n, {
        (gain, loss): compare(*pairs(n - gain - loss, gain, loss, 0))
        for gain in range(n + 1)
        for loss in range(n + 1 - gain)
    }


@pytest.mark.parametrize("share", [0.02, 0.1, 0.3, 0.5])
def test_equals_differ_significantly_at_most_as_often_as_stated(compared, share):
    """Exact: all outcomes of 30 images of which `share` is gained and as much lost."""
    n, known = compared
    chances = discordances(n, share, share)
    assert sum(c for c, pair in chances if known[pair].p_value < 0.05) <= 0.05


@pytest.mark.parametrize(
    ("gain", "loss"), [(0.05, 0.05), (0.2, 0.2), (0.3, 0.05), (0.02, 0.1), (0.4, 0.0), (0.5, 0.4)]
)
def test_the_interval_of_a_difference_covers_as_often_as_it_says(compared, gain, loss):
    """Exact; it is an approximation, worst where most images differ (93.8 % at n = 30)."""
    n, known = compared
    covered = sum(
        c
        for c, pair in discordances(n, gain, loss)
        if known[pair].lower <= gain - loss <= known[pair].upper
    )
    assert 0.935 <= covered <= 1


def test_the_better_model_has_an_interval_above_zero(compared):
    for measured in compared[1].values():
        assert measured.lower > 0 or not measured.better


def test_equals_are_called_better_rarely():
    source = random.Random(1)

    def draw():
        return [source.random() < 0.6 for _ in range(60)]

    wrong = sum(compare(draw(), draw()).p_value < 0.05 for _ in range(300)) / 300
    assert wrong <= 0.06


@pytest.mark.parametrize(("a", "b"), [(0.5, 0.5), (0.8, 0.95)])
def test_the_interval_of_a_difference_covers_the_truth(a, b):
    """Paired through a common difficulty of each image."""
    source = random.Random(2)
    covered = 0
    for _ in range(200):
        difficulty = [source.random() for _ in range(80)]
        measured = compare(
            [u < a for u in difficulty], [(0.7 * u + 0.3 * source.random()) < b for u in difficulty]
        )
        covered += measured.lower <= _truth(a, b) <= measured.upper
    assert covered / 200 >= 0.92


def _truth(a, b):
    """P(0.7 u + 0.3 v < b) - a for independent uniform u and v."""
    steps = 2_000
    inside = sum(min(1.0, max(0.0, (b - 0.7 * (i + 0.5) / steps) / 0.3)) for i in range(steps))
    return inside / steps - a


@pytest.mark.parametrize(("first", "second"), [([True], [True, False]), ([], [])])
def test_different_images_are_not_compared(first, second):
    with pytest.raises(ValueError, match="expected the same images"):
        compare(first, second)
