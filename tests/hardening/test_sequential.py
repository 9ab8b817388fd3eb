"""Early decisions are wrong no more often than they say, and follow the gate's own comparison."""

from itertools import product
from math import comb

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.stats import beta, hypergeom

from hardening.sequential import WEIGHT, Evidence, decide, evidence


def grid(total):
    """All (hits, seen) that can occur, seen down, hits across; impossible hits are clipped."""
    seen = np.arange(total + 1)[:, None].repeat(total + 1, axis=1)
    return np.minimum(np.arange(total + 1), seen), seen


def first_decisions(order, limit, error, block):
    """Of each row of outcomes: (decided above?, images used), looking after every block."""
    runs, total = order.shape
    looks = np.union1d(np.arange(0, total, block), [total])
    hits = np.pad(order.cumsum(1), ((0, 0), (1, 0)))[:, looks]
    pairs, places = np.unique(hits * (total + 1) + looks, return_inverse=True)
    found = evidence(pairs // (total + 1), pairs % (total + 1), total, limit)
    found = Evidence(*(side[places.reshape(hits.shape)] for side in found))
    reached = np.maximum(*found) >= -np.log(error)
    assert reached.any(1).all()
    first = reached.argmax(1)
    rows = np.arange(runs)
    return found.above[rows, first] > found.below[rows, first], looks[first]


def shuffled(true, total, runs, seed):
    order = np.arange(total) < true
    return np.random.default_rng(seed).permuted(np.tile(order, (runs, 1)), axis=1)


@pytest.mark.parametrize("limit", [0.05, 0.4, 0.5, 0.93])
@pytest.mark.parametrize("error", [0.2, 0.05, 0.01])
def test_no_truth_makes_wrong_decisions_likelier_than_stated(limit, error):
    """Exact: the probability that a walk without replacement ever meets a wrong decision."""
    total = 40
    found = evidence(*grid(total), total, limit)
    above, below = (side >= -np.log(error) for side in found)
    for true in range(total + 1):
        wrong = above if true / total < limit else below
        walk, met = np.zeros(total + 2), 0.0
        walk[0] = 1.0
        for seen in range(total + 1):
            stopped = np.append(wrong[seen], False)
            met += walk[stopped].sum()
            # Ends of right decisions are left out: going on can only add wrong ones.
            walk[stopped] = 0
            hits = np.arange(total + 2)
            chance = np.clip((true - hits) / max(total - seen, 1), 0, 1)
            walk = walk * (1 - chance) + np.roll(walk * chance, 1)
        assert met <= error + 1e-12, f"{true} of {total}"


@pytest.mark.parametrize("limit", [0.1, 0.4, 0.75])
def test_evidence_against_the_truth_is_one_at_most_on_average(limit):
    total = 24
    hits, seen = grid(total)
    found = evidence(hits, seen, total, limit)
    for true in range(total + 1):
        e = np.exp(found.above if true / total < limit else found.below)
        for t in range(total + 1):
            chance = hypergeom.pmf(np.arange(t + 1), total, true, t)
            possible = chance > 0
            assert (chance[possible] * e[t, : t + 1][possible]).sum() <= 1 + 1e-9


def test_evidence_is_the_ratio_written_out():
    """Every order of outcomes of 6 images: P by counting arrangements, Q by integration."""
    total, limit = 6, 0.5
    split = 2.5 / total
    prior = beta(WEIGHT * split, WEIGHT * (1 - split))
    for seen in range(1, total + 1):
        for order in product([0, 1], repeat=seen):
            s = sum(order)

            def coins(p, s=s, seen=seen):
                return p**s * (1 - p) ** (seen - s) * prior.pdf(p)

            q = quad(coins, split, 1)[0] / prior.sf(split)
            # Two true ones of six: the arrangements that begin with this very order.
            p = comb(total - seen, 2 - s) / comb(total, 2) if s <= 2 else 0.0
            e = np.exp(evidence(s, seen, total, limit).above)
            assert e == pytest.approx(q / p if p else np.inf) or (e == 0 and s * 7 / seen < 2)


@pytest.mark.parametrize(
    ("total", "limit", "error", "block"),
    [(1000, 0.4, 0.05, 1), (1000, 0.9, 0.01, 8), (500, 0.1, 0.05, 16), (200, 0.5, 0.1, 1)],
)
@pytest.mark.parametrize("distance", [-0.03, -0.001, 0.0, 0.03])
def test_simulated_decisions_are_wrong_no_more_often_than_stated(
    total, limit, error, block, distance
):
    runs = 2000
    true = int(np.ceil(limit * total - 1e-9)) + int(
        np.sign(distance) * np.ceil(abs(distance) * total)
    )
    above, _ = first_decisions(shuffled(true, total, runs, seed=true), limit, error, block)
    wrong = np.mean(above != (true / total >= limit))
    assert wrong <= error + 3 * (error * (1 - error) / runs) ** 0.5


@pytest.mark.parametrize("error", [0.2, 0.01])
def test_evidence_of_one_over_the_error_decides(error):
    decided = set()
    for order in shuffled(45, 100, 30, seed=3):
        strength = np.exp(np.maximum(*evidence(order.cumsum(), np.arange(1, 101), 100, 0.4)))
        for images in range(1, 101):
            decision = decide(order[:images].tolist(), 100, 0.4, error)
            assert (decision.decided is not None) == (strength[images - 1] >= 1 / error)
            assert (decision.images, decision.error) == (images, error)
            decided.add(decision.decided)
    assert {None, "above"} <= decided


@given(st.lists(st.booleans(), min_size=1, max_size=120), st.sampled_from([0.1, 0.5, 0.8]))
def test_a_decision_agrees_with_the_share_it_is_reported_with(outcomes, limit):
    decision = decide(outcomes, 120, limit, error=0.4)
    if decision.decided:
        assert (decision.decided == "above") == (sum(outcomes) / len(outcomes) >= limit)


@pytest.mark.parametrize(
    ("limit", "value", "share"),
    [(0.4, 0.6, 0.06), (0.4, 0.2, 0.06), (0.4, 0.5, 0.2), (0.9, 1.0, 0.05), (0.5, 0.0, 0.02)],
)
def test_far_from_the_limit_few_images_decide(limit, value, share):
    order = shuffled(round(1000 * value), 1000, 500, seed=1)
    above, images = first_decisions(order, limit, error=0.05, block=1)
    assert images.mean() <= 1000 * share
    assert np.mean(above == (value >= limit)) > 0.95


@given(st.lists(st.booleans(), min_size=1, max_size=60), st.integers(0, 60))
def test_all_images_decide_as_the_gate_does(outcomes, number):
    """At limits that are shares themselves, where floats could differ."""
    limit = min(number, len(outcomes)) / len(outcomes)
    decision = decide(outcomes, len(outcomes), limit, error=1e-9)
    assert (decision.decided == "above") == (sum(outcomes) / len(outcomes) >= limit)


@pytest.mark.parametrize(
    ("outcomes", "decided"),
    [([True] * 5, "above"), ([True] * 4, None), ([False] * 6, "below"), ([False] * 5, None)],
)
def test_images_that_cannot_change_it_are_not_awaited(outcomes, decided):
    assert decide(outcomes, 10, 0.5, error=1e-12).decided == decided


@pytest.mark.parametrize(("limit", "decided"), [(0.0, "above"), (-1.0, "above"), (1.1, "below")])
def test_a_limit_that_everything_or_nothing_passes_needs_no_image(limit, decided):
    decision = decide([], 10, limit, error=0.05)
    assert (decision.decided, decision.images) == (decided, 0)


def test_nothing_seen_decides_nothing():
    assert decide([], 10, 0.5, error=0.05).decided is None


def test_the_text_says_what_was_decided_by_how_many():
    decision = decide([True] * 40, 1000, 0.4, error=0.01)
    assert decision.text == (
        f"at least 0.4, decided by {decision.images} of 1000 images in random order; "
        "wrong with probability 0.01 at most"
    )


@pytest.mark.parametrize(
    ("outcomes", "total", "error"),
    [([True, True], 1, 0.05), ([], 0, 0.05), ([True], 2, 0.0), ([True], 2, 1.0)],
)
def test_senseless_questions_are_refused(outcomes, total, error):
    with pytest.raises(ValueError, match="expected at most as many outcomes as images"):
        decide(outcomes, total, 0.5, error)
