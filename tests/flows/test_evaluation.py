"""Shards, early decisions and what leads an attack, through the real command."""

import hashlib
import os
import signal
import time

import pytest

from flows.cascade import entries
from flows.config import Config, load
from flows.measure import shards
from flows.subjects import Subject, _trains
from hardening.spec import Spec
from tasks.store import Artifact

DETECTOR = {"name": "fgsm", "sample": 6}
"""Of twelve images; the undefended model falls to it, so all of each shard must follow."""

ENOUGH = [
    {"name": "apgd", "params": {"steps": 20, "loss": "dlr"}},
    {"name": "transfer", "params": {"steps": 10}, "source": "parent"},
    {"name": "square", "params": {"queries": 100}},
]

QUICKLY = [
    {"name": "apgd", "params": {"steps": 20, "loss": "dlr"}},
    {"name": "square", "params": {"queries": 100}, "sample": 10},
]


def file(name):
    return Artifact(uri=f"file:///{name}", sha256=hashlib.sha256(name.encode()).hexdigest(), size=1)


def subject(name, role="candidate", onnx=None, defenses=("n_fgsm",), parent=None):
    specs = tuple(Spec(name=defense) for defense in defenses)
    return Subject(name, role, specs, (), file(onnx or name), None, parent and file(parent), ())


def config(*attacks, **evaluation):
    return Config(
        name="x",
        data={"name": "digits"},
        model={"name": "small_cnn"},
        threat={"norm": "linf", "eps": 0.1},
        evaluation={"attacks": list(attacks) or None, **evaluation},
    )


SUBJECTS = [
    subject("ctrl", role="control", defenses=()),
    subject("tune"),
    subject("more", defenses=("trades",)),
    subject("int8", defenses=("n_fgsm", "quantization"), parent="tune"),
    subject("king", role="champion", defenses=()),
]


@pytest.mark.parametrize(
    ("source", "name", "led_by"),
    [
        ("file", "tune", []),
        ("parent", "int8", ["tune"]),
        ("parent", "tune", None),
        ("control", "tune", ["ctrl"]),
        ("control", "ctrl", None),
        ("robust", "ctrl", ["tune"]),
        ("robust", "tune", ["more"]),
        ("robust", "int8", ["more"]),
        ("ensemble", "ctrl", ["tune", "more"]),
        ("more", "tune", ["more"]),
        ("more", "more", None),
    ],
)
def test_an_attack_is_led_by_the_file_its_source_names(source, name, led_by):
    """Or left out where there is no such file; never led by a champion, who comes and goes."""
    subjects = [s if s.role != "control" else s._replace(name="control") for s in SUBJECTS]
    known = {"ctrl": "control"}.get(name, name)
    attacked = next(s for s in subjects if s.name == known)
    found = entries(config({"name": "apgd", "source": source}), attacked, subjects)
    expected = [] if led_by is None else [tuple(file(one) for one in led_by)]
    assert [sources for _, _, sources in found] == expected


def test_what_it_was_made_from_and_its_float_form_lead_from_a_parent_together():
    """A trained int8 file has two; one that nobody here made has only what was made of it."""
    form = file("form")
    trained = SUBJECTS[3]._replace(trained=True, float_form=form)
    foreign = subject("theirs", role="control", defenses=())._replace(float_form=form)
    transfer = {"name": "apgd", "source": "parent"}

    for attacked, led_by in ((trained, (file("tune"), form)), (foreign, (form,))):
        ((_, _, sources),) = entries(config(transfer), attacked, SUBJECTS)
        assert sources == led_by
        assert attacked.same_weights == form
    assert SUBJECTS[3].same_weights == file("tune")
    assert trained._replace(float_form=None).same_weights is None
    ensemble = entries(config({"name": "apgd", "source": "ensemble"}), SUBJECTS[1], [foreign])
    assert not ensemble


def test_what_needs_gradients_of_the_file_itself_is_left_out_where_it_has_none():
    attacks = [{"name": name, "source": "parent"} for name in ("apgd", "diva")]
    found = entries(config(*attacks, {"name": "apgd"}), SUBJECTS[3], SUBJECTS, [SUBJECTS[3].onnx])
    assert [(spec.name, sources) for _, spec, sources in found] == [("apgd", (file("tune"),))]


def test_shards_cover_every_image_once():
    assert [*shards(config(images=25, shard=10))] == [[0, 10], [10, 20], [20, 25]]


def test_a_profile_leaves_out_what_does_not_know_the_norm():
    l1 = config().model_copy(update={"threat": config().threat.model_copy(update={"norm": "l1"})})
    full = l1.model_copy(
        update={"evaluation": l1.evaluation.model_copy(update={"profile": "full"})}
    )
    names = {spec.name for _, spec, _ in entries(full, SUBJECTS[1], SUBJECTS)}
    assert "fab" in names
    assert "hopskipjump" not in names


@pytest.mark.slow
def test_an_interrupted_evaluation_goes_on_with_the_shard_it_was_at(elsewhere):
    path = elsewhere.write(
        evaluation__attacks=QUICKLY, evaluation__shard=15, candidates=None, registry=None, gate={}
    )
    killed = elsewhere.start("harden", path)
    steps = elsewhere.root / "home" / "store" / "steps"
    deadline = time.monotonic() + 200
    while _finished(steps, "attack_file") < 3 and killed.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(killed.pid, signal.SIGKILL)
    killed.communicate()
    done = _finished(steps, "attack_file")
    assert 3 <= done < 8

    again = elsewhere.temper("harden", path)

    assert len([line for line in again.cached if "[" in line]) == done
    model = elsewhere.evidence()["models"]["control"]
    assert len(model["survived"]) == 60
    assert {len(row["adversarial"]) for row in model["attacks"]} == {4}


def test_a_clear_gate_is_decided_before_all_images_are_attacked(chain, elsewhere, monkeypatch):
    """The candidate keeps far more than 1 %: a few shards tell."""
    monkeypatch.chdir(elsewhere.root)
    path = elsewhere.write(
        candidates={"tuned": [{"name": "n_fgsm", "params": {"epochs": 4, "batch_size": 64}}]},
        evaluation__shard=12,
        evaluation__early_decision=0.05,
        evaluation__certify=[{"name": "interval"}],
        evaluation__surveys=[{"name": "spatial", "params": {"rotations": 1, "shifts": 1}}],
        evaluation__attacks=[DETECTOR, *ENOUGH],
        registry=None,
    )
    judged = chain(load(path), elsewhere.root / "home")
    run, count = judged.run, judged.run.images
    assert run.decision.of == 60
    assert count == run.decision.images < 60
    for model in run.models.values():
        assert len(model.survived) == len(model.correct) == count
        assert len(model.certificates[0].certified) == count
        (survey,) = model.surveys
        assert {found.images for found in survey.conditions.values()} == {count}
        assert len(model.distances.values) == count
    row = run.models["control"].attacks[0]
    assert row.name == "fgsm"
    assert row.attacked == sum(run.models["control"].correct)
    assert not row.sampled
    assert judged.verdict(clean_accuracy=0.5, robust_accuracy=0.01, max_alarms=9).passed


def _finished(steps, name):
    if not steps.exists():
        return 0
    return sum(f'"{name}"' in path.read_text() for path in steps.glob("*.json"))


def test_a_file_that_was_trained_itself_is_no_rounded_parent():
    """It may be harder than what it was made from, and that is no alarm."""
    assert _trains(Spec(name="quantization_aware"))
    assert not _trains(Spec(name="quantization"))
