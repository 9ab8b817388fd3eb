"""What MLflow is told, read from evidence alone: no server."""

import re

import pytest

from hardening.errors import NumericsError
from hardening.evidence import (
    Alarm,
    Certificate,
    ChecklistItem,
    Decision,
    Distances,
    Fooling,
    Survey,
)
from hardening.statistics import accuracy
from hardening.verdict import Gate, judge
from tasks.mlflow_content import MAX_KEY, model_measures, run_tags

ROBUST = {
    "robust_accuracy",
    "robust_accuracy_lower",
    "robust_accuracy_upper",
    "accuracy_after/apgd-ce",
    "curve_eps",
    "curve_robust_accuracy",
    "unbounded_accuracy",
    "nearest_distance_median",
}


def measured(hits):
    return accuracy([n < hits for n in range(40)])


def alarm(gate, value, *, fired=False):
    return Alarm(
        gate=gate, name=gate, fired=fired, value=value, limit=0, images=40, meaning="", advice=""
    )


def survey(name, *hits):
    conditions = {f"condition {n}": measured(count) for n, count in enumerate(hits)}
    return Survey(survey=name, params={}, conditions=conditions, seconds=1)


def certificate(subject, hits):
    return Certificate(
        method="interval",
        subject=subject,
        text="",
        norm="linf",
        eps=0.1,
        certified=[n < hits for n in range(40)],
        abstained=[False] * 40,
        accuracy=measured(hits),
        radius_norm="linf",
        radii=[0.0] * 40,
        figures={},
    )


def item(state):
    return ChecklistItem(item=state, section="severe", state=state, text="")


@pytest.fixture
def rich(make_model):
    """A model with all that an evaluation can leave behind."""

    def build(**changes):
        model = make_model("tuned", b"file", 30)
        row = model.attacks[0].model_copy(
            update={"fooling": Fooling(images=100, universal=0.2, noise=0.03)}
        )
        fields = {
            "attacks": [row],
            "distances": Distances(attack="fmn", params={}, values=[0.1, 0.2, None]),
            "surveys": [survey("corruptions", 40, 20), survey("patch", 10), survey("patch", 8)],
            "certificates": [certificate("file", 10), certificate("smoothed classifier", 20)],
            "alarms": [alarm("G5", 0.3, fired=True), alarm("G8", 0.0), alarm("int8", None)],
            "checklist": [item("failed"), item("not run"), item("not run"), item("passed")],
        }
        return model.model_copy(update={**fields, **changes})

    return build


def numbers(model):
    return {measure.key: measure.value for measure in model_measures(model)}


def test_every_new_fact_is_a_number_to_filter_and_plot_by(rich):
    found = numbers(rich())
    expected = {
        "accuracy_after/apgd-ce": 0.75,
        "unbounded_accuracy": 0,
        "nearest_distance_median": 0.2,
        "survey_mean/corruptions": 0.75,
        "survey_worst/corruptions": 0.5,
        "survey_mean/patch": 0.25,
        "survey_mean/patch.2": 0.2,
        "certified_accuracy/interval": 0.25,
        "smoothed_certified_accuracy/interval": 0.5,
        "fooling_universal/apgd-ce": 0.2,
        "fooling_noise/apgd-ce": 0.03,
        "alarms_fired": 1,
        "alarm/G5": 0.3,
        "alarm/G8": 0,
        "checklist_failed": 1,
        "checklist_not_run": 2,
    }

    assert {key: found.get(key) for key in expected} == pytest.approx(expected)
    assert "alarm/int8" not in found


def test_without_its_due_attacks_a_model_has_no_robust_number(rich):
    evaluated, half = numbers(rich()), numbers(rich(due=["white-box", "joint"]))

    assert set(evaluated) - set(half) == ROBUST
    assert set(half) < set(evaluated)


def test_a_token_attack_is_no_due_one(rich):
    model = rich()
    token = model.attacks[0].model_copy(update={"budget_backwards": 1})

    assert ROBUST.isdisjoint(numbers(rich(attacks=[token])))


def test_a_distance_that_is_unknown_for_most_is_left_out(rich):
    far = Distances(attack="fmn", params={}, values=[0.1, None, None])

    assert "nearest_distance_median" not in numbers(rich(distances=far))


def test_the_curve_is_not_stretched_by_the_point_without_a_bound(rich):
    points = [measure for measure in model_measures(rich()) if measure.key == "curve_eps"]

    assert [(point.step, point.value) for point in points] == [(0, 0.1), (1, 0.2)]


def test_names_are_such_as_mlflow_takes(rich):
    row = rich().attacks[0].model_copy(update={"name": f"apgd loss=ce/{'x' * 400}:"})
    keys = [measure.key for measure in model_measures(rich(attacks=[row]))]

    assert len(set(keys)) >= len(keys) - 2  # the curve has two points
    assert all(len(key) <= MAX_KEY and re.fullmatch(r"[\w.\- /]+", key) for key in keys)


def test_a_number_that_is_not_finite_is_named(rich):
    with pytest.raises(NumericsError, match="'tuned': alarm/G5 is inf"):
        model_measures(rich(alarms=[alarm("G5", float("inf"))]))


def test_a_run_that_was_decided_early_says_so(make_model, make_run):
    run = make_run("early", make_model("control", b"a", 0, role="control"))
    decision = Decision(limit=0.5, error=0.01, images=300, of=1000, models={})
    decided = run.model_copy(update={"decision": decision})
    gate = Gate()

    tags = run_tags(decided, gate, judge(decided, gate), "0" * 64)

    assert tags["temper.decided"] == "300 of 1000 at error 0.01"
    assert "temper.decided" not in run_tags(run, gate, judge(run, gate), "0" * 64)
