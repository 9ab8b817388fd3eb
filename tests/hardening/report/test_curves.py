import re
from xml.etree import ElementTree

import pytest

from hardening.evidence import Distances, Point
from hardening.report import charts, curves, nearest
from hardening.statistics import accuracy


def drawn(run):
    return {panel.title: panel for panel in curves.panels(run)}


def ticks(panel):
    """The numbers of the horizontal axis."""
    texts = ElementTree.fromstring(panel.svg).iter("text")
    return [float(e.text) for e in texts if e.get("class") == "tick" and "%" not in e.text]


def shares(panel, series=0):
    """The line of a series as (place on the axis from 0 to 1, share)."""
    lines = [*ElementTree.fromstring(panel.svg).iter("polyline")]
    pairs = [pair.split(",") for pair in lines[series].get("points").split()]
    plot = charts.PLOT
    return [
        (
            (float(x) - plot.left) / (plot.right - plot.left),
            (plot.bottom - float(y)) / (plot.bottom - plot.top),
        )
        for x, y in pairs
    ]


def far(made, values, **changes):
    distances = Distances(attack="fmn", params={}, values=values)
    return made.model("tuned", distances=distances, **changes)


def test_the_point_without_a_bound_is_told_and_does_not_stretch_the_axis(made):
    panel = drawn(made.run(made.control(), made.model("tuned")))["Against eps"]

    assert max(ticks(panel)) == 0.15
    assert panel.remark.endswith("without any bound: 0.0 %")


def test_models_that_differ_without_a_bound_are_told_apart(made):
    stands = Point(eps=1.0, accuracy=accuracy(made.outcomes(0.045)), unbounded=True)
    masked = made.model("masked")
    masked = masked.model_copy(update={"curve": [*masked.curve[:-1], stands]})
    panel = drawn(made.run(made.control(), masked))["Against eps"]

    assert panel.remark.endswith("without any bound: control 0.0 %, masked 4.5 %")


def test_no_chart_shows_a_model_without_its_due_attacks(made):
    additions = made.additions(0.9, 0.1)
    run = made.run(made.control(**additions), made.not_attacked("half", **additions))

    assert len(drawn(run)) == 3
    assert not any("half" in panel.svg + panel.remark for panel in drawn(run).values())


def test_without_an_evaluated_model_there_is_no_chart(made):
    assert curves.panels(made.run(made.not_attacked("control", role="control"))) == []


def test_what_stands_after_each_pass_falls_with_the_steps_of_the_fallen(made):
    row = made.attack("apgd-ce", 0.8, 0.78, budget_forwards=100, step=[10, 10, 10, 50])
    model = made.model("tuned", clean=0.8, robust=0.78, due=["white-box"], attacks=[row])
    control = made.control(attacks=[], due=["white-box"])
    panel = drawn(made.run(control, model))["Against forward passes"]
    edge = 1 / 1.03  # the axis is a little longer than the passes
    expected = [(0, 0.8), (0.1, 0.8), (0.1, 0.785), (0.5, 0.785), (0.5, 0.78), (1, 0.78)]

    assert shares(panel) == [
        (pytest.approx(at * edge, abs=1e-3), pytest.approx(share, abs=1e-3))
        for at, share in expected
    ]


def test_a_second_attack_starts_where_the_first_one_ended(made):
    first = made.attack("apgd-ce", 0.8, 0.7, budget_forwards=100)
    second = made.attack("apgd-dlr", 0.7, 0.695, budget_forwards=60, step=[20])
    sample = made.attack("fab", 0.695, 0.695, kind="white-box", attacked=50, sampled=True)
    square = made.attack("square", 0.695, 0.69)
    rows = [first, second, sample, square]
    model = made.model("tuned", clean=0.8, robust=0.69, attacks=rows)
    panel = drawn(made.run(made.control(), model))["Against forward passes"]

    assert "through apgd-ce, then apgd-dlr;" in panel.remark
    said = re.search(r"tuned: (.*?)\"", panel.svg)[1]
    assert said == "70.0 % at 100, 69.5 % at 160"
    assert max(x for x, _ in shares(panel, 1)) * 1.03 * 202 == pytest.approx(160, abs=1)


def test_the_share_that_is_farther_falls_by_the_distances_found(made):
    model = far(made, [0.0, 0.05, 0.05, 0.2])
    panel = drawn(made.run(made.control(), model))["Against distance"]
    levels = [share for _, share in shares(panel)]

    assert levels[0] == pytest.approx(1)
    assert sorted({round(level, 2) for level in levels}) == [0.25, 0.75, 1.0]
    assert "tuned: 25.0 % at 0.1" in panel.svg


def test_an_image_of_which_none_was_found_is_farther_than_any_distance(made):
    run = made.run(made.control(), far(made, [0.02, None, None]))
    panel = drawn(run)["Against distance"]

    assert shares(panel)[-1] == (pytest.approx(1), pytest.approx(2 / 3, abs=1e-3))
    assert nearest.table(run)[0][2:5] == ("3", "2", "none found for half")


def test_a_few_far_images_do_not_press_the_others_together(made):
    model = far(made, [*(0.02 + n / 1000 for n in range(99)), 25.0])
    panel = drawn(made.run(made.control(), model))["Against distance"]

    assert max(ticks(panel)) < 0.2
    assert 0.1 in ticks(panel)


@pytest.mark.parametrize(
    ("values", "middle"), [([0.1, 0.3, None], 0.3), ([0.1, None, None], None), ([], None)]
)
def test_the_median_distance_counts_unknown_ones_as_far(made, values, middle):
    assert nearest.median(far(made, values)) == middle
    assert nearest.median(far(made, values, due=["joint"])) is None


def test_the_points_of_the_curves_name_the_one_without_a_bound(made):
    rows = curves.points([made.control(), made.not_attacked()])

    assert [name for name, _ in rows] == ["0", "0.05", "0.1", "0.15", "no bound"]
    assert rows[-1][1] == ["0.0 % [0.0, 1.9]", "NOT EVALUATED"]
