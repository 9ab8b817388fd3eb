import io
import re

import pytest
from rich.console import Console

from hardening.evidence import Latency, Naive
from hardening.report.summary import COLUMNS, console, markdown, table
from hardening.statistics import accuracy
from hardening.verdict import judge


def rows_of(run, gate):
    return {row["name"]: row for row in table(run, judge(run, gate))}


def printed(run, gate, width=100, **how):
    out = io.StringIO()
    Console(file=out, width=width, **how).print(console(run, judge(run, gate)))
    return out.getvalue()


def test_control_comes_first_and_the_champion_last(made):
    champion, candidate = made.model("champion", "champion"), made.model("tuned")
    run = made.run(champion, candidate, made.control())

    assert [*rows_of(run, made.gate())] == ["control", "tuned", "champion"]


def test_a_row_has_every_number_of_its_model(made):
    rows = rows_of(made.full(), made.gate())

    assert rows["tuned-int8"] == {
        "name": "tuned-int8",
        "role": "candidate",
        "clean": "96.0 % [92.3, 98.0]",
        "clean_change": "-2.0 pt [-4.1, +0.2]",
        "robust": "57.5 % [50.6, 64.1]",
        "robust_change": "+55.5 pt [+48.0, +61.9]",
        "size": "112 kB",
        "precision": "int8",
        "latency_1": "0.213 ms [p95 0.342]",
        "latency_32": "2.31 ms [p95 3.18]",
        "training": "1 min 23 s",
        "verdict": "passed",
        "why": "",
    }
    assert rows["tuned"]["why"] == "chosen"
    assert rows["control"]["verdict"] == "reference"
    assert rows["champion"]["verdict"] == "champion now"


def test_without_its_due_attacks_a_model_has_no_robust_number_anywhere(made):
    run = made.run(made.control(), made.model("tuned"), made.not_attacked())
    verdict = judge(run, made.gate())
    row = rows_of(run, made.gate())["tuned-int8"]

    assert row["robust"] == row["robust_change"] == row["verdict"] == "NOT EVALUATED"
    # 86.5 % is its worst case so far; 84.5 points would be its gain.
    for text in (markdown(run, made.gate(), verdict), printed(run, made.gate()), str(row)):
        assert "86.5" not in text
        assert "84.5" not in text
        assert "NOT EVALUATED" in text


def test_against_a_control_without_its_due_attacks_there_is_no_gain(made):
    control = made.not_attacked("control", role="control")
    run = made.run(control, made.model("tuned"))
    rows = rows_of(run, made.gate())

    assert rows["tuned"]["robust"].startswith("60.0 %")
    assert rows["tuned"]["robust_change"] == "NOT EVALUATED"
    assert "robust gain | at least 20.00 pt | NOT EVALUATED" in markdown(
        run, made.gate(), judge(run, made.gate())
    )


@pytest.mark.parametrize("p50_ms", [float("nan"), None])
def test_a_latency_that_is_missing_is_said_to_be_so(made, p50_ms):
    latency = [] if p50_ms is None else [Latency(batch=1, p50_ms=p50_ms, p95_ms=p50_ms)]
    rows = rows_of(made.run(made.control(), made.model("tuned", latency=latency)), made.gate())

    assert rows["tuned"]["latency_1"] == rows["tuned"]["latency_32"] == "not measured"


def test_markdown_has_every_number_of_the_table(made):
    run = made.full()
    verdict = judge(run, made.gate())
    text = markdown(run, made.gate(), verdict)

    for row in table(run, verdict):
        for key in COLUMNS:
            assert row[key] in text


def test_every_table_of_the_markdown_is_rectangular(made):
    run = made.run(made.control(), made.model("a|b\nc"), made.not_attacked("x\\|y"))
    text = markdown(run, made.gate(), judge(run, made.gate()))
    tables = [line.replace("\\\\", "").replace("\\|", "") for line in text.splitlines()]
    widths = [line.count("|") for line in tables if line.startswith("|")]

    assert set(widths[:5]) == {12}
    assert set(widths[5:]) == {5}


def test_markdown_takes_no_markup_from_a_name(made):
    hostile = "![x](https://example.org/a.png) <script> **b** [c][d] `e`"
    run = made.run(made.control(), made.model(hostile), name=hostile)
    text = markdown(run, made.gate(), judge(run, made.gate()))

    live = r"(?<!\\)(!\[|\]\(|<script|\*\*b|\]\[|`e)"
    assert re.search(live, hostile)
    assert not re.search(live, text)


def test_markdown_tells_which_alarm_fired_and_what_to_do(made):
    fired = [made.alarm("zero_gradients", 0.31, images=64), made.alarm("noise", 0.0)]
    run = made.run(made.control(), made.model("masked", alarms=fired))
    text = markdown(run, made.gate(), judge(run, made.gate()))

    assert "**masked**: G5 zero gradients 0.31, limit 0.01, on 64 images: largest share" in text
    assert "What to do: cross entropy alone: attack the margin" in text
    assert "G15" not in text


def test_a_decision_before_the_end_is_told(made):
    text = markdown(made.everything(), made.gate(), judge(made.everything(), made.gate()))

    assert "after 200 of 1,000 images in random order at error level 0.01" in text
    assert "error level" not in markdown(made.full(), made.gate(), judge(made.full(), made.gate()))


def test_the_summary_stays_short_whatever_was_measured(made):
    run = made.everything()
    text = markdown(run, made.gate(), judge(run, made.gate()))

    assert len(text.splitlines()) < 45
    assert len(printed(run, made.gate(), 80).splitlines()) < 15


@pytest.mark.parametrize("width", [80, 100])
def test_the_console_table_fits_and_breaks_no_number(made, width):
    name = "a-candidate-with-quite-a-long-name"
    run = made.run(made.control(), made.model(name), made.not_attacked())
    text = printed(run, made.gate(), width)

    assert max(len(line) for line in text.splitlines()) <= width
    for whole in ("98.0 %", "[95.0, 99.2]", "412 kB", "0.213 ms", "Robust accuracy"):
        assert whole in text


def test_the_console_table_is_plain_text_when_it_is_not_a_terminal(made):
    assert "\x1b" not in printed(made.full(), made.gate())
    assert "\x1b" in printed(made.full(), made.gate(), force_terminal=True)


def test_the_console_takes_no_markup_and_no_control_characters_from_a_name(made):
    run = made.run(made.control(), made.model("[red]\x1b[2J"))
    text = printed(run, made.gate())

    assert "[red]" in text
    assert "\x1b" not in text


def careless(*shares):
    names = ("fgsm", "pgd")
    return [
        Naive(attack=name, params={}, accuracy=accuracy([i < share for i in range(200)]))
        for name, share in zip(names, shares, strict=True)
    ]


def test_the_naive_number_stands_beside_the_worst_case_where_it_was_asked_for(made):
    pruned = made.model("pruned", naive=careless(180, 150))
    asked, plain = made.run(made.control(), pruned), made.run(made.control(), made.model("pruned"))

    rows = rows_of(asked, made.gate())

    assert rows["pruned"]["naive"] == "75.0 % [68.6, 80.5], pgd"
    assert rows["control"]["naive"] == "not measured"
    text = markdown(asked, made.gate(), judge(asked, made.gate()))
    assert "| Robust accuracy | Naive number |" in text
    for width in (80, 100):
        shown = printed(asked, made.gate(), width)
        assert "75.0 %" in shown
        assert max(map(len, shown.splitlines())) <= width
    assert "naive" not in rows_of(plain, made.gate())["pruned"]
    assert "Naive" not in markdown(plain, made.gate(), judge(plain, made.gate()))


def test_what_does_not_ship_says_so_in_its_row(made):
    run = made.run(made.control(), made.model("pruned", ships="it is random"))

    row = rows_of(run, made.gate())["pruned"]

    assert (row["verdict"], row["why"]) == ("failed", "ships as ONNX")
    assert "it is random" in markdown(run, made.gate(), judge(run, made.gate()))
