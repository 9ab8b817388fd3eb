import pytest

from hardening.report import numbers
from hardening.statistics import accuracy, compare


def test_an_accuracy_carries_its_interval():
    assert numbers.accuracy(accuracy([True] * 487 + [False] * 13)) == "97.4 % [95.6, 98.5]"


def test_a_change_is_in_signed_points_with_its_paired_interval():
    first, second = [True] * 50 + [False] * 50, [True] * 62 + [False] * 38

    assert numbers.change(compare(first, second)) == "+12.0 pt [+5.2, +18.3]"
    assert numbers.change(compare(second, first)) == "-12.0 pt [-18.3, -5.2]"


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0.0 %"), (1.0, "100.0 %"), (0.9996, "99.96 %"), (0.0003, "0.03 %"), (0.5, "50.0 %")],
)
def test_all_and_none_are_written_only_when_exact(value, text):
    assert numbers.percent(value) == text


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_no_number_is_not_measured(value):
    written = [numbers.percent(value), numbers.milliseconds(value), numbers.seconds(value)]

    assert written == [numbers.NOT_MEASURED] * 3
    assert numbers.plain(value) == numbers.plain(None) == numbers.NOT_MEASURED


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (41_234, "41.2 kB"), (999_499, "999 kB"), (999_500, "1.00 MB"),
     (45_812_000, "45.8 MB"), (1_234_567_890, "1,235 MB")],
)  # fmt: skip
def test_sizes_have_three_digits(count, text):
    assert numbers.size(count) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0 s"), (4.24, "4.2 s"), (42.4, "42 s"), (59.9, "60 s"), (200, "3 min 20 s"),
     (4320, "1 h 12 min")],
)  # fmt: skip
def test_durations_are_readable(value, text):
    assert numbers.seconds(value) == text


@pytest.mark.parametrize(
    ("eps", "text"), [(8 / 255, "8/255"), (0.1, "0.1"), (0.3, "0.3"), (0.5, "0.5"), (0.2, "0.2")]
)
def test_eps_is_a_fraction_of_255_where_that_was_meant(eps, text):
    assert numbers.radius(eps) == text
