import threading

import pytest
import torch

from hardening.randomness import draw_seed, seeded


def test_a_seeded_block_draws_the_same_numbers_every_time():
    draws = []
    for _ in range(2):
        with seeded(3):
            draws.append(torch.rand(4))

    assert torch.equal(*draws)


def test_a_seeded_block_leaves_the_global_generator_as_it_was_even_on_an_exception():
    before = torch.get_rng_state()

    def fail():
        torch.rand(4)
        raise KeyError

    with pytest.raises(KeyError), seeded(3):
        fail()

    assert torch.equal(torch.get_rng_state(), before)


def test_one_seeded_block_may_hold_another():
    with seeded(3):
        expected = torch.rand(4)
    with seeded(3):
        with seeded(4):
            torch.rand(1)
        got = torch.rand(4)

    assert torch.equal(got, expected)


def test_blocks_in_two_threads_do_not_draw_from_each_other():
    with seeded(3):
        expected = torch.cat([torch.rand(1) for _ in range(500)])
    got: list[torch.Tensor] = []

    def work() -> None:
        with seeded(3):
            got.append(torch.cat([torch.rand(1) for _ in range(500)]))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(got) == 4
    assert all(torch.equal(draws, expected) for draws in got)


def test_a_drawn_seed_depends_on_the_generator_and_moves_it():
    first, second = torch.Generator().manual_seed(5), torch.Generator().manual_seed(5)

    assert draw_seed(first) == draw_seed(second)
    assert draw_seed(first) != draw_seed(torch.Generator().manual_seed(5))
