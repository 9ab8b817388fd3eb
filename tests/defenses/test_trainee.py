from copy import deepcopy

import pytest
import torch

from defenses.trainee import follow


@pytest.fixture
def pair(model):
    """A model and one that has moved away from it, counters and statistics included."""
    moved = deepcopy(model)
    with torch.no_grad():
        for tensor in (*moved.parameters(), *moved.net.buffers()):
            tensor.add_(3)
    return model, moved


def test_with_no_past_the_average_is_the_live_model_bit_for_bit(pair, bits):
    average, live = pair

    follow(average, live, 0.0)

    assert bits(average) == bits(live)


def test_with_nothing_but_past_the_weights_stay_bit_for_bit(pair):
    average, live = pair
    before = [p.clone() for p in average.parameters()]

    follow(average, live, 1.0)

    assert all(torch.equal(a, b) for a, b in zip(before, average.parameters(), strict=True))


def test_buffers_are_copied_and_keep_their_types(pair):
    average, live = pair
    types = {name: buffer.dtype for name, buffer in average.named_buffers()}

    follow(average, live, 0.9)

    assert {name: buffer.dtype for name, buffer in average.named_buffers()} == types
    assert torch.int64 in types.values()
    ours, theirs = dict(average.named_buffers()), dict(live.named_buffers())
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_weights_move_by_the_rest_of_the_way(pair):
    average, live = pair
    before = [p.clone() for p in average.parameters()]

    follow(average, live, 0.75)

    for old, new, target in zip(before, average.parameters(), live.parameters(), strict=True):
        torch.testing.assert_close(new, 0.75 * old + 0.25 * target)
