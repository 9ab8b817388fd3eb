from itertools import combinations
from math import inf
from xml.etree import ElementTree

import pytest

from hardening.report import charts, svg
from hardening.report.labels import Anchor, Box, place
from hardening.statistics import accuracy


def measured(share):
    return accuracy([index < round(200 * share) for index in range(200)])


def parsed(markup):
    return ElementTree.fromstring(markup)


def test_a_bar_is_as_long_as_its_accuracy_and_its_whisker_spans_the_interval():
    share = measured(0.5)
    root = parsed(charts.bars("t", [charts.Bar("a", 1, share)]))
    bar = next(e for e in root.iter("rect") if "bar" in e.get("class"))
    whisker = next(e for e in root.iter("line") if e.get("class") == "whisker")

    assert float(bar.get("width")) == pytest.approx(0.5 * charts.BAR_WIDTH, abs=0.1)
    assert float(whisker.get("x1")) == pytest.approx(share.lower * charts.BAR_WIDTH, abs=0.1)
    assert float(whisker.get("x2")) == pytest.approx(share.upper * charts.BAR_WIDTH, abs=0.1)


def test_without_an_accuracy_there_are_words_and_no_bar():
    root = parsed(charts.bars("t", [charts.Bar("a", 1, None, "NOT EVALUATED")]))

    assert [e.get("class") for e in root.iter("rect")] == ["track"]
    assert "NOT EVALUATED" in [e.text for e in root.iter("text")]


def test_text_is_escaped_in_every_chart():
    name, share = "<script>\"&'", measured(0.5)
    drawn = [
        charts.bars(name, [charts.Bar(name, 0, share)]),
        charts.lines(
            charts.Axes(name, name, 1),
            [charts.Series(name, 0, [(0.1, 0.5)], [(0.1, share)])],
            charts.Limit(0.1, name),
        ),
        charts.scatter([charts.Spot(name, 0, share, share)]),
    ]

    for markup in drawn:
        assert "<script" not in markup
        assert name in parsed(markup).get("aria-label")


def test_lines_mark_the_limit_and_keep_every_point_inside():
    points = [(eps, measured(1 - 3 * eps)) for eps in (0.0, 0.1, 0.2, 0.3)]
    series = charts.Series("a", 0, [(eps, share.value) for eps, share in points], points)
    root = parsed(charts.lines(charts.Axes("x", "y", 0.31), [series], charts.Limit(0.2, "here")))
    limit = next(e for e in root.iter("line") if e.get("class") == "limit")
    marks = [float(e.get("cx")) for e in root.iter("circle")]

    assert float(limit.get("x1")) == pytest.approx(marks[2], abs=0.1)
    assert charts.PLOT.left <= min(marks) < max(marks) <= charts.PLOT.right


def test_a_line_that_goes_on_beyond_the_axis_ends_at_its_end():
    series = charts.Series("a", 0, [(0, 1.0), (1, 0.5), (9, 0.1), (inf, 0.0)], [])
    (line,) = parsed(charts.lines(charts.Axes("x", "y", 2), [series])).iter("polyline")
    ends = [pair.split(",") for pair in line.get("points").split()]

    assert len(ends) == 3
    assert float(ends[-1][0]) == charts.PLOT.right
    assert ends[-1][1] == ends[-2][1]


def test_series_differ_in_more_than_colour():
    swatches = [charts.swatch(style) for style in range(30)]
    uncoloured = [
        "".join(part for part in s.split('"') if not part.startswith("line s")) for s in swatches
    ]

    assert len({s.replace(svg.colour(i), "") for i, s in enumerate(uncoloured)}) == 30


@pytest.mark.parametrize("count", [1, 2, 5, 20])
def test_labels_cover_neither_each_other_nor_a_point_nor_the_edge(count):
    area = Box(0, 0, 440, 280)
    anchors = [Anchor(380 + index % 3, 60 + index % 2, 90, 15) for index in range(count)]

    boxes = place(anchors, [], area)

    assert all(box.inside(area) for box in boxes)
    assert all(first.overlap(second) == 0 for first, second in combinations(boxes, 2))
    marks = [Box(a.x - 5, a.y - 5, a.x + 5, a.y + 5) for a in anchors]
    assert all(box.overlap(mark) == 0 for box in boxes for mark in marks)


def test_a_label_alone_stands_beside_its_point():
    (box,) = place([Anchor(100, 100, 50, 15)], [], Box(0, 0, 440, 280))

    assert (box.left - 100, box.top) == (9, 92.5)


@pytest.mark.parametrize(
    ("lower", "upper", "expected"),
    [
        (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (0.8, 1, [0.8, 0.85, 0.9, 0.95, 1]),
        (0, 0.0324, [0, 0.01, 0.02, 0.03]),
        (0.35, 0.55, [0.35, 0.4, 0.45, 0.5, 0.55]),
    ],
)
def test_ticks_are_round_and_inside(lower, upper, expected):
    assert svg.ticks(lower, upper) == expected


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_a_scatter_of_equal_models_has_an_axis(share):
    spots = [charts.Spot("a", 0, measured(share), measured(share))] * 2

    assert len([*parsed(charts.scatter(spots)).iter("circle")]) == 2


def test_a_long_name_keeps_its_beginning_and_its_end():
    assert svg.shorten("tuned-with-trades-int8", 12) == "tuned-w…int8"
    assert svg.shorten("tuned\nint8", 12) == "tuned int8"
