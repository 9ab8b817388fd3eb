"""Each alarm that rows can tell fires on the failure it is for, and is quiet otherwise."""

import pytest

from hardening.alarms import Rounded, above_parent, alarms
from hardening.diagnosis import Limits
from hardening.evidence import AttackRow, Point
from hardening.statistics import accuracy

N = 200


def row(kind, fell, *, source="file", unconfirmed=0, standing=50, attacked=N, sampled=False):
    fell = list(fell)
    return AttackRow(
        name=kind,
        attack="apgd",
        params={},
        source=source,
        kind=kind,
        accuracy=accuracy([index < standing for index in range(N)]),
        attacked=attacked,
        sampled=sampled,
        fell=fell,
        step=[1] * len(fell),
        distance=[0.1] * len(fell),
        unconfirmed=unconfirmed,
        lost_in_8_bits=0,
        forwards=1,
        backwards=1,
        budget_forwards=1,
        budget_backwards=1,
        seconds=1,
        adversarial=[],
    )


WHITE = row("white-box", range(100))
QUIET = [WHITE, row("transfer", [], source="control"), row("gradient-free", [])]


def told(rows, images=N, limits=None, **counts):
    found = alarms(rows, images, limits=limits or Limits(), **counts)
    return {alarm.gate: alarm for alarm in found}


def fired(rows, images=N, **counts):
    return {gate for gate, alarm in told(rows, images, **counts).items() if alarm.fired}


def points(*correct, n=N):
    return [
        Point(eps=0.1 * (i + 1), accuracy=accuracy([index < count for index in range(n)]))
        for i, count in enumerate(correct)
    ]


def test_a_healthy_run_is_quiet_and_every_alarm_is_listed():
    found = told(QUIET)
    assert list(found) == ["G9", "G10", "G11", "G16", "G18", "twin", "int8"]
    assert fired(QUIET) == set()


def test_what_was_not_measured_has_no_value_and_says_why():
    found = told([WHITE])
    nothing = {gate for gate, alarm in found.items() if alarm.value is None}
    assert nothing == {"G9", "G10", "G11", "G16", "int8"}
    assert all(found[gate].detail for gate in nothing)


@pytest.mark.parametrize(
    ("kind", "gate"), [("gradient-free", "G10"), ("transfer", "G11")], ids=["blind", "borrowed"]
)
@pytest.mark.parametrize(("count", "fires"), [(0, False), (1, False), (2, True), (60, True)])
def test_an_attack_that_wins_among_survivors_fires_from_two_images_on(kind, gate, count, fires):
    rows = [WHITE, row(kind, range(100, 100 + count))]
    alarm = told(rows)[gate]
    assert alarm.value == count / N
    assert alarm.fired == fires
    assert fired(rows) == ({gate} if fires else set())


@pytest.mark.parametrize(("count", "fires"), [(2, False), (3, True)])
def test_of_a_thousand_images_two_are_within_the_limit(count, fires):
    rows = [WHITE, row("gradient-free", range(100, 100 + count))]
    assert (fired(rows, 1000) == {"G10"}) == fires


def test_what_a_gradient_attack_broke_too_is_no_win():
    rows = [WHITE, row("gradient-free", range(90, 101))]
    assert told(rows)["G10"].value == 1 / N


def test_two_rivals_do_not_count_an_image_twice():
    rows = [WHITE, row("gradient-free", [100]), row("gradient-free", [100, 101])]
    assert told(rows)["G10"].value == 2 / N


@pytest.mark.parametrize("kind", ["straight-through", "expectation", "bpda", "joint"])
def test_adaptive_attacks_are_white_box_attacks(kind):
    rows = [row("white-box", []), row(kind, range(80)), row("gradient-free", range(80))]
    assert fired(rows) == set()


def test_without_a_gradient_attack_there_is_nobody_to_beat():
    alarm = told([row("gradient-free", range(100))])["G10"]
    assert alarm.value is None
    assert "no gradient attack" in alarm.detail


def test_the_silence_of_a_detector_is_about_the_images_it_met():
    met = row("gradient-free", [], attacked=40, sampled=True)
    assert told([WHITE, met])["G10"].images == 40
    assert told([WHITE, met, row("gradient-free", [])])["G10"].images == N


@pytest.mark.parametrize(
    ("correct", "found"), [((90, 50, 0), 0), ((90, 50, 51), 1), ((50, 52, 10), 2), ((0, 0, 9), 9)]
)
def test_robust_accuracy_that_rises_with_eps(correct, found):
    alarm = told(QUIET, radii=points(*correct))["G9"]
    assert alarm.value == found / N
    assert alarm.fired == (found > 1)


def test_radii_are_compared_in_their_order_of_size():
    assert not told(QUIET, radii=points(90, 50, 10)[::-1])["G9"].fired


def test_radii_are_counted_on_their_own_images():
    alarm = told(QUIET, radii=points(10, 12, n=64))["G9"]
    assert (alarm.value, alarm.images) == (2 / 64, 64)


def test_successes_lost_in_8_bits_are_reported_and_never_fire():
    alarm = told(QUIET, rounded=Rounded(40, 40))["G16"]
    assert (alarm.value, alarm.images, alarm.fired) == (1, 40, False)
    assert told(QUIET, rounded=Rounded(40, 3))["G16"].value == 3 / 40


def test_nothing_fell_so_nothing_could_be_lost():
    assert told(QUIET, rounded=Rounded(0, 0))["G16"].value is None


@pytest.mark.parametrize(("count", "fires"), [(1, False), (2, True)])
def test_a_twin_that_is_not_its_file(count, fires):
    rows = [row("white-box", range(100), unconfirmed=count), *QUIET[1:]]
    assert fired(rows) == ({"twin"} if fires else set())


def test_what_does_not_transfer_is_no_contradiction():
    assert fired([WHITE, row("transfer", [], source="parent", unconfirmed=50)]) == set()


@pytest.mark.parametrize(("parent", "fires"), [(46, False), (45, True), (60, False)])
def test_a_quantized_file_that_looks_harder_than_its_parent(parent, fires):
    """Two points of 200 images are four: 50 stand."""
    said = above_parent(50, parent, N, "evaluated alike", Limits())
    assert said.fired == fires
    assert said.detail == f"50 stand, of its float32 parent, evaluated alike, {parent} of {N}"


def test_limits_are_the_users():
    rows = [WHITE, row("gradient-free", range(100, 110))]
    limits = Limits(gradient_free=0.05, violations=0)
    assert not told(rows, limits=limits)["G10"].fired
    assert told(rows, limits=limits)["G10"].limit == 0.05


def test_every_alarm_says_what_it_means_and_what_to_do():
    assert all(alarm.meaning and alarm.advice and alarm.name for alarm in told(QUIET).values())
