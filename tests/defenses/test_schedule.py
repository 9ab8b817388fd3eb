import pytest

from defenses.schedule import decay, one_cycle, ramp


@pytest.mark.parametrize("total", [1, 2, 3, 10, 100, 4321])
def test_one_cycle_rises_to_its_peak_and_never_leaves_zero_to_one(total):
    factors = [one_cycle(step, total) for step in range(total)]
    peak = factors.index(max(factors))

    assert all(0 < factor <= 1 for factor in factors)
    assert factors[: peak + 1] == sorted(factors[: peak + 1])
    assert factors[peak:] == sorted(factors[peak:], reverse=True)


def test_one_cycle_peaks_after_three_tenths_and_ends_near_zero():
    factors = [one_cycle(step, 1000) for step in range(1000)]

    assert factors.index(max(factors)) in {299, 300}
    assert max(factors) == pytest.approx(1, abs=0.01)
    assert factors[0] < 0.01
    assert factors[-1] < 0.01


def test_the_ramp_grows_linearly_and_stays_at_one():
    factors = [ramp(step, 100, 0.4) for step in range(100)]

    assert factors[0] == pytest.approx(1 / 40)
    assert factors[19] == pytest.approx(0.5)
    assert factors[38] < 1
    assert factors[39:] == [1.0] * 61


def test_without_a_ramp_eps_is_full_from_the_first_step():
    assert [ramp(step, 10, 0.0) for step in range(10)] == [1.0] * 10


def test_a_ramp_over_everything_ends_at_one():
    assert ramp(9, 10, 1.0) == 1.0
    assert ramp(8, 10, 1.0) < 1.0


def test_the_average_is_short_at_first_and_reaches_its_limit():
    assert decay(0, 0.99) == pytest.approx(0.1)
    assert decay(90, 0.99) == pytest.approx(0.91)
    assert decay(100_000, 0.99) == 0.99
    assert decay(50, 0.0) == 0.0
