"""Shards of one attack become one row, and rows say what stands after each."""

import pytest

from hardening.evidence import Fooling
from hardening.rows import Part, merge_all


def part(name="apgd", fell=(), attacked=2, **changes):
    fields = {
        "name": name,
        "attack": "apgd",
        "params": {"steps": 5},
        "source": "file",
        "through": [],
        "kind": "white-box",
        "attacked": attacked,
        "sampled": False,
        "fell": list(fell),
        "step": [3 for _ in fell],
        "distance": [0.1 for _ in fell],
        "unconfirmed": 1,
        "lost_in_8_bits": 0,
        "fooling": None,
        "forwards": 12,
        "backwards": 10,
        "budget_forwards": 6,
        "budget_backwards": 5,
        "starts": 1,
        "seconds": 1.5,
        "adversarial": f"digest of {name} {list(fell)}",
    }
    return Part(**{**fields, **changes})


def test_a_row_is_the_sum_of_its_shards():
    (row,) = merge_all([[part(fell=[0])], [part(fell=[3])]], [True] * 4)
    assert (row.fell, row.attacked, row.unconfirmed, row.seconds) == ([0, 3], 4, 2, 3.0)
    assert (row.forwards, row.backwards) == (6.0, 5.0)
    assert row.accuracy.correct == 2
    assert len(row.adversarial) == 2


def test_each_row_counts_what_stands_after_it():
    first, second = merge_all(
        [[part(fell=[0]), part("square", fell=[1])]], [True, True, True, False]
    )
    assert (first.accuracy.correct, second.accuracy.correct) == (2, 1)
    assert first.accuracy.images == 4


def test_a_detector_that_met_everything_in_one_shard_is_still_a_sample_in_all():
    (row,) = merge_all([[part(sampled=True)], [part()]], [True] * 4)
    assert row.sampled


def test_fooling_rates_are_weighted_by_images():
    shards = [
        [part(attacked=30, fooling=Fooling(images=3, universal=1.0, noise=0.0))],
        [part(attacked=30, fooling=Fooling(images=1, universal=0.0, noise=0.4))],
    ]
    (row,) = merge_all(shards, [True] * 4)
    assert row.fooling == Fooling(images=4, universal=0.75, noise=0.1)


def test_shards_with_other_attacks_do_not_merge():
    with pytest.raises(ValueError, match="zip"):
        merge_all([[part()], [part(), part("square")]], [True] * 4)
