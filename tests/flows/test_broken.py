"""Defenses that do not survive export, through the real command: measured, never promoted."""

import json

import pytest

from hardening.evidence import RunEvidence
from hardening.verdict import SHIPS, missing_attacks

pytestmark = pytest.mark.slow

ATTACKS = [
    {"name": "apgd", "params": {"steps": 20, "loss": "margin"}},
    {"name": "apgd", "params": {"steps": 20, "loss": "margin"}, "source": "parent"},
    {"name": "diva", "params": {"steps": 20}, "source": "parent"},
    {"name": "square", "params": {"queries": 100}},
]
BROKEN = {
    "pruned": [{"name": "stochastic_activation_pruning"}],
    "watched": [{"name": "detector", "params": {"epochs": 5, "batch_size": 64, "width": 8}}],
}


def test_what_does_not_ship_is_measured_shown_and_never_promoted(elsewhere):
    path = elsewhere.write(
        threat__eps=0.2,
        evaluation__images=16,
        evaluation__curve=[0.5],
        evaluation__attacks=ATTACKS,
        evaluation__naive=True,
        candidates=BROKEN,
        gate={"robust_accuracy": 0.0, "max_alarms": 99},
    )
    # Twenty passes make one answer of a random model: a loaded machine needs its time.
    process = elsewhere.start("harden", path)
    out, err = process.communicate(timeout=1200)
    assert process.returncode == 1, err
    assert "GATE NOT MET" in out
    assert "Naive" in out

    folder = elsewhere.root / "runs" / "tiny" / "latest"
    assert {file.name for file in folder.glob("*.onnx")} == {"control.onnx"}
    run = RunEvidence.model_validate_json((folder / "evidence.json").read_text())
    verdict = json.loads((folder / "verdict.json").read_text())
    assert not verdict["promote"]
    for judgement in verdict["judgements"]:
        failed = {check["name"] for check in judgement["checks"] if not check["passed"]}
        assert failed == {SHIPS}
    for name, kind in (("pruned", "expectation"), ("watched", "joint")):
        model = run.models[name]
        assert missing_attacks(model) == []
        assert {kind, "transfer", "gradient-free"} == {row.kind for row in model.attacks}
        assert min(row.accuracy.value for row in model.naive) > model.robust.value
        assert model.file.providers == ["torch"]
        assert model.latency
        assert all(row.through for row in model.attacks if row.source == "file")
    assert run.models["control"].naive
    left_out = {a.gate for a in run.models["pruned"].alarms if "on purpose" in a.detail}
    assert left_out == {"G1", "G3", "G6", "G17"}
    report = (folder / "report.html").read_text()
    assert "Naive number" in report
    assert "pruned does not ship" in report

    planned = elsewhere.temper("check", path)
    assert "0 to run" in planned.out
