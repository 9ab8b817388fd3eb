"""The due alarm fires on each model that is broken on purpose, and none on the healthy ones."""

from functools import partial

import pytest

from attacks.apgd import apgd
from attacks.square import square
from hardening.alarms import alarms
from hardening.carried import Carried
from hardening.diagnosis import DIAGNOSED, Limits
from hardening.evaluation import run_attack
from hardening.evidence import AttackRow
from hardening.log import Silent
from hardening.statistics import accuracy
from hardening.threat import ThreatModel

THREAT = ThreatModel(norm="linf", eps=0.15)
CHEAP = ("G1", "G2", "G3", "G4", "G5", "G6", "G7", "G14")
DUE = {
    "rounding": {"G5"},
    "scale": {"G5", "G14"},
    "softmax": {"G4"},
    "noise": {"G1", "G3", "G6", "G7"},
    "winners": {"G6"},
}


def fired(found):
    return {gate for gate, alarm in found.items() if alarm.fired}


@pytest.mark.parametrize("name", DUE)
def test_the_due_alarm_fires_on_a_broken_model(name, zoo, attacked, examine):
    assert DUE[name] <= fired(examine(zoo(name), attacked(64), gates=CHEAP))


def test_a_model_that_keeps_learning_statistics_is_told(zoo, attacked, examine):
    """An attack on it would end in an error: the gates that ask without attacking say why."""
    assert fired(examine(zoo("norm"), attacked(64), gates=CHEAP[:4])) >= {"G2", "G3"}


@pytest.mark.parametrize("name", ["std", "at"])
def test_no_cheap_alarm_fires_on_a_healthy_model(name, zoo, attacked, examine):
    assert fired(examine(zoo(name), attacked(128), gates=CHEAP)) == set()


def test_rounding_stands_without_any_bound_and_falls_to_noise(zoo, attacked, examine, cascade):
    images, model = attacked(64), zoo("rounding")
    survivors = cascade(model, images)
    assert fired(examine(model, images, survivors, ("G8", "G15"))) == {"G8", "G15"}


def test_rounding_does_not_solve_binarised_problems_and_a_healthy_model_does(
    zoo, attacked, examine, monkeypatch
):
    monkeypatch.setattr("hardening.diagnosis.binarisation.PROBLEMS", 8)  # sixty-four take long
    values = [
        examine(zoo(name), attacked(16), gates=["G17"])["G17"].value
        for name in ("std", "at", "rounding")
    ]
    assert values == [0, 0, 1]


@pytest.mark.parametrize(("name", "due"), [("rounding", {"G10", "G11"}), ("at", set())])
def test_rows_of_real_attacks_tell_who_beats_white_box(name, due, zoo, attacked):
    images = attacked(64)
    found = alarms(cascade_rows(zoo(name), zoo("std"), images), len(images), limits=Limits())
    assert fired({alarm.gate: alarm for alarm in found}) == due


@pytest.mark.slow
@pytest.mark.parametrize("name", ["std", "at"])
def test_no_alarm_at_all_fires_on_a_healthy_model(name, zoo, attacked, examine, cascade):
    images = attacked(128)
    found = examine(zoo(name), images, cascade(zoo(name), images))
    assert fired(found) == set()
    assert {gate for gate, alarm in found.items() if alarm.value is not None} == set(DIAGNOSED)


@pytest.mark.slow
def test_rounding_is_found_by_every_gate_that_looks_at_gradients(zoo, attacked, examine, cascade):
    images = attacked(128)
    found = examine(zoo("rounding"), images, cascade(zoo("rounding"), images))
    assert {"G5", "G8", "G15", "G17"} <= fired(found)


def cascade_rows(model, parent, images):
    """Gradients, then transfer from `parent`, then none: each on what stands."""
    plan = {
        "white-box": (partial(apgd, steps=30, loss="ce"), model),
        "white-box again": (partial(apgd, steps=30, loss="dlr", restarts=3), model),
        "transfer": (partial(apgd, steps=10), Carried(model, parent)),
        "gradient-free": (partial(square, queries=150), model),
    }
    standing = model(images.images).argmax(1) == images.labels
    rows = []
    for name, (attack, target) in plan.items():
        places = standing.nonzero()[:, 0]
        if not len(places):
            break
        outcome = run_attack(name, attack, target, model, images, places, THREAT, 0, Silent())
        # Half of what stands is kept for the rival, or too few would be left to tell them apart.
        fell = outcome.fell[::2] if name == "transfer" else outcome.fell
        standing[fell] = False
        rows.append(row(name, fell.tolist(), len(places), standing.tolist()))
    return rows


def row(name, fell, attacked, standing):
    return AttackRow(
        name=name,
        attack=name,
        params={},
        source="parent" if name == "transfer" else "file",
        kind=name.removesuffix(" again"),
        accuracy=accuracy(standing),
        attacked=attacked,
        sampled=False,
        fell=fell,
        step=[1] * len(fell),
        distance=[0.1] * len(fell),
        unconfirmed=0,
        lost_in_8_bits=0,
        forwards=1,
        backwards=1,
        budget_forwards=1,
        budget_backwards=1,
        seconds=1,
        adversarial=[],
    )
