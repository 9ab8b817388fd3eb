"""The whole chain through the real command: what it leaves, what it does not do twice."""

import hashlib
import json
import os
import signal
import time
from pathlib import Path

import mlflow
import pytest

from flows.__main__ import main
from hardening.deployment.lineage import read_lineage
from hardening.deployment.signature import graph_sha256
from hardening.errors import BrokenPromise
from hardening.evidence import Certificate, RunEvidence
from hardening.statistics import accuracy
from hardening.verdict import Gate, judge
from tasks.judge import judge_run
from tasks.step import Run
from tasks.store import open_store

FILES = {
    "evidence.json",
    "verdict.json",
    "gate.json",
    "catalogue.md",
    "report.html",
    "control.onnx",
    "tuned.onnx",
    "tuned-int8.onnx",
}


ALL_CERTIFIED = Certificate(
    method="interval",
    subject="file",
    text="",
    norm="linf",
    eps=0.1,
    certified=[True] * 60,
    abstained=[False] * 60,
    accuracy=accuracy([True] * 60),
    radius_norm="linf",
    radii=[0.1] * 60,
    figures={},
).model_dump()
"""A lie: of an image that fell, nothing can be proven."""


def test_a_run_ends_with_a_table_and_everything_it_promised(place, first):
    assert first.code == 0, first.err
    assert "PASSED" in first.out
    for name in ("control", "tuned", "tuned-int8", "report", "mlflow ui"):
        assert name in first.out
    latest = place.root / "runs" / "tiny" / "latest"
    assert {p.name for p in latest.iterdir()} == FILES


def test_the_log_is_calm(first):
    """One line a step, and nothing from dependencies."""
    for word in ("warn", "Traceback", "prefect.", "EventsWorker", "INFO", "Error"):
        assert word not in first.err


def test_the_numbers_are_those_of_the_files_beside_them(place, first):
    for name, model in place.evidence()["models"].items():
        data = (place.root / "runs/tiny/latest" / f"{name}.onnx").read_bytes()
        assert graph_sha256(data) == model["file"]["graph_sha256"]


def test_every_file_says_where_it_comes_from_and_what_was_measured(place, first):
    latest = place.root / "runs/tiny/latest"
    evidence = hashlib.sha256((latest / "evidence.json").read_bytes()).hexdigest()
    models = place.evidence()["models"]
    said = {name: read_lineage((latest / f"{name}.onnx").read_bytes()) for name in models}
    for name, lineage in said.items():
        assert lineage.name == f"tiny/{name}"
        assert lineage.evidence == evidence
        assert lineage.clean_accuracy.startswith(f"{models[name]['clean']['value']:.4f} [")
        assert lineage.robust_accuracy.endswith("] n 60")
    assert said["control"].parent == ""
    assert said["tuned"].parent == said["control"].graph
    assert said["tuned-int8"].parent == said["tuned"].graph


def test_every_due_attack_ran_and_int8_was_attacked_from_its_float_parent_too(place, first):
    rows = place.evidence()["models"]["tuned-int8"]["attacks"]
    due = {"straight-through", "transfer", "differential", "gradient-free"}
    assert {row["kind"] for row in rows} == due
    borrowed = [row["name"] for row in rows if row["source"] == "parent"]
    assert borrowed == ["transfer from parent", "diva from parent"]


def test_what_int8_alone_gets_wrong_is_counted_on_all_images_and_told(place, first):
    models = place.evidence()["models"]
    (found,) = [
        row["disagreement"] for row in models["tuned-int8"]["attacks"] if row["disagreement"]
    ]
    assert found["parent"] == models["tuned"]["file"]["sha256"]
    assert found["images"] == 60
    assert 0 <= found["flips"] <= found["evasive"] + models["tuned"]["clean"]["images"]
    assert not any(row["disagreement"] for row in models["tuned"]["attacks"])
    report = (place.root / "runs/tiny/latest/report.html").read_text()
    assert "Where a quantized file parts from its float32 parent" in report


def test_int8_is_held_against_its_parent_on_all_images_of_the_run(place, first):
    models = place.evidence()["models"]
    (alarm,) = [a for a in models["tuned-int8"]["alarms"] if a["gate"] == "int8"]
    assert "evaluated alike" in alarm["detail"]
    assert alarm["images"] == 60


def test_the_worst_case_is_per_image(place, first):
    for model in place.evidence()["models"].values():
        fallen = [image for row in model["attacks"] for image in row["fell"]]
        assert len(fallen) == len(set(fallen))
        fallen += model["probed"]
        assert len(fallen) == len(set(fallen))
        assert model["survived"] == [
            right and image not in fallen and (fall is None or fall > 1)
            for image, (right, fall) in enumerate(
                zip(model["correct"], model["falls_at"], strict=True)
            )
        ]


def test_every_fallen_image_says_when_and_how_far(place, first):
    for model in place.evidence()["models"].values():
        for row in model["attacks"]:
            assert len(row["fell"]) == len(row["step"]) == len(row["distance"])
            assert all(step > 0 for step in row["step"])
            assert all(0 < distance <= 0.1 + 1e-6 for distance in row["distance"])


def test_each_attack_meets_what_the_ones_before_it_left(place, first):
    for model in place.evidence()["models"].values():
        standing = sum(model["correct"])
        for row in model["attacks"]:
            if row["kind"] == "differential":
                assert row["attacked"] == 60
            else:
                assert row["attacked"] <= standing
                assert row["sampled"] == (row["attacked"] < standing)
            standing -= len(row["fell"])
            assert row["accuracy"]["correct"] == standing


def test_the_curve_never_rises(place, first):
    for model in place.evidence()["models"].values():
        values = [point["accuracy"]["value"] for point in model["curve"]]
        assert values == sorted(values, reverse=True)
        at_eps = next(p for p in model["curve"] if p["eps"] == 0.1)
        assert at_eps["accuracy"] == model["robust"]
        assert model["curve"][-1]["unbounded"]
        assert model["curve"][-1]["accuracy"]["correct"] == 0


def test_a_verdict_can_be_recomputed_offline(place, first, capsys):
    latest = place.root / "runs/tiny/latest"
    assert main(["verdict", str(latest / "evidence.json"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads((latest / "verdict.json").read_text())


def test_a_stricter_gate_turns_the_same_evidence_red(place, first, tmp_path):
    (tmp_path / "strict.yaml").write_text("robust_accuracy: 1.0\n")
    evidence = str(place.root / "runs/tiny/latest/evidence.json")
    assert main(["verdict", evidence, "--gate", str(tmp_path / "strict.yaml")]) == 1


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda e: e["models"]["tuned"]["robust"].update(value=0.99), "models.tuned.robust"),
        (lambda e: e["models"]["tuned"].update(survived=[True] * 60), "not the worst case"),
        (lambda e: e["models"].pop("control"), "got no control"),
        (lambda e: e.update(schema_version=1), "schema_version"),
        (lambda e: e["models"]["tuned"]["correct"].pop(), "expected 60 outcomes"),
        (lambda e: e["models"]["tuned"]["attacks"][0]["fell"].pop(), "apgd-ce.accuracy"),
        (
            lambda e: e["models"]["tuned"]["attacks"][1]["fell"].extend(
                e["models"]["tuned"]["attacks"][0]["fell"]
            ),
            "was not standing",
        ),
        (lambda e: e["models"]["tuned"]["certificates"].append(ALL_CERTIFIED), "that fell"),
        (lambda e: e["models"]["control"]["probed"].extend(range(60)), "not the worst case"),
    ],
    ids=["total", "worst case", "control", "version", "length", "less", "twice", "proof", "probe"],
)
def test_evidence_that_contradicts_itself_is_refused(place, first, tmp_path, capsys, change, says):
    evidence = place.evidence()
    change(evidence)
    (tmp_path / "evidence.json").write_text(json.dumps(evidence))
    (tmp_path / "gate.json").write_text('{"robust_accuracy": 0.01}')
    assert main(["verdict", str(tmp_path / "evidence.json")]) == 2
    assert says in capsys.readouterr().err


def test_a_run_refuses_to_judge_evidence_that_contradicts_itself(place, first, tmp_path):
    evidence = place.evidence()
    evidence["models"]["tuned"]["certificates"].append(ALL_CERTIFIED)
    store = open_store(f"file://{tmp_path}")
    stored = store.put(json.dumps(evidence).encode())
    with pytest.raises(BrokenPromise, match="certify images that fell"):
        judge_run.function(Run(store, "key", "verdict"), stored, gate=Gate())


def test_mlflow_holds_the_run_and_the_registry_the_winner(place, first):
    uri = f"sqlite:///{place.root}/home/mlflow/mlflow.db"
    client = mlflow.MlflowClient(uri)
    verdict = json.loads((place.root / "runs/tiny/latest/verdict.json").read_text())
    champion = client.get_model_version_by_alias("tiny", "champion")
    chosen = place.evidence()["models"][verdict["chosen"]]
    file = (place.root / f"runs/tiny/latest/{verdict['chosen']}.onnx").read_bytes()
    assert champion.tags["temper.sha256"] == hashlib.sha256(file).hexdigest()
    assert champion.tags["temper.graph"] == chosen["file"]["graph_sha256"]
    assert champion.tags["temper.verdict"] == "passed"


@pytest.fixture(scope="module")
def second(place, first):
    return place.temper("harden", place.write(), "--json")


def test_an_unchanged_configuration_recomputes_nothing(second):
    assert second.code == 0, second.err
    judged_anew = {"champion: evidence", "evidence", "verdict", "report"}
    assert second.ran <= judged_anew  # the champion is new to the second run
    assert {"train control", "tuned: n_fgsm", "tuned-int8: quantization"} <= second.cached


def test_json_goes_to_standard_output_and_says_where_everything_is(second):
    result = json.loads(second.out)
    assert result["verdict"]["passed"] is True
    assert Path(result["report"]).is_file()
    assert "is the champion already" in result["verdict"]["reason"]


def test_the_same_winner_is_not_registered_twice(place, second):
    client = mlflow.MlflowClient(f"sqlite:///{place.root}/home/mlflow/mlflow.db")
    assert len(client.search_model_versions("name = 'tiny'")) == 1


def test_a_third_run_changes_nothing_at_all(place, second, capsys):
    before = place.runs()
    third = place.main(capsys, "harden", place.write())
    assert third.code == 0, third.err
    assert "report: cached" in third.err
    assert third.ran == set()
    assert place.runs() == before


def test_changing_the_gate_recomputes_the_verdict_and_what_follows(place, second, capsys):
    strict = place.write(gate={"robust_accuracy": 0.999})
    done = place.main(capsys, "harden", strict)
    assert done.code == 1, done.err
    assert done.ran == {"verdict", "report"}
    assert "GATE NOT MET" in done.out


@pytest.fixture
def plan_of(place, second, capsys):
    """What `check` says of a changed configuration, by label."""

    def plan(**changes):
        done = place.main(capsys, "check", place.write(**changes), "--json")
        assert done.code == 0
        return {line["label"]: line for line in json.loads(done.out)}

    return plan


def test_changing_eps_of_the_evaluation_keeps_all_training(plan_of):
    plan = plan_of(evaluation__threat={"norm": "linf", "eps": 0.12})
    for label in ("train control", "tuned: n_fgsm", "tuned-int8: quantization", "tuned: export"):
        assert plan[label]["cached"]
    assert not plan["tuned: apgd-ce"]["cached"]


def test_changing_eps_keeps_the_baseline(plan_of):
    """And `check` says so beforehand."""
    plan = plan_of(threat__eps=0.12)
    assert plan["train control"]["cached"]
    assert plan["control: export"]["cached"]
    assert not plan["control: apgd-ce"]["cached"]
    assert not plan["tuned: n_fgsm"]["cached"]
    assert plan["tuned: n_fgsm"]["gradients"] == "8 a training image"
    assert plan["control: apgd-ce"]["gradients"] == "at most 20 an image x 60"


@pytest.mark.slow
def test_a_killed_run_goes_on_where_it_stopped_and_ends_the_same(place, first, elsewhere):
    """SIGKILL in the middle of a training, then the same command; finished steps stay finished."""
    killed = elsewhere.start("harden", elsewhere.write())
    checkpoints = elsewhere.root / "home" / "store" / "checkpoints"
    steps = elsewhere.root / "home" / "store" / "steps"
    deadline = time.monotonic() + 120
    while not _training_after(steps, checkpoints) and killed.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    os.kill(killed.pid, signal.SIGKILL)
    killed.communicate()
    assert killed.returncode == -signal.SIGKILL
    assert not (elsewhere.root / "runs" / "tiny").exists()

    again = elsewhere.temper("harden", elsewhere.write())

    assert again.code == 0, again.err
    assert {"load data", "choose images", "train control"} <= again.cached
    assert "tuned: n_fgsm: resumes from its last checkpoint" in again.err
    assert _timeless(elsewhere.evidence()) == _timeless(_evidence_of(place, champion=False))


def test_no_server_is_left_behind(place, first):
    """Ours ends by itself soon after its last user."""
    deadline = time.monotonic() + 60
    while _servers(place.root):
        assert time.monotonic() < deadline
        time.sleep(0.5)


def test_evidence_on_disk_is_what_the_verdict_was_made_from(place, first):
    folder = place.root / "runs" / "tiny" / place.runs()[0]
    run = RunEvidence.model_validate_json((folder / "evidence.json").read_text())
    gate = Gate.model_validate_json((folder / "gate.json").read_text())
    assert json.loads(judge(run, gate).model_dump_json()) == json.loads(
        (folder / "verdict.json").read_text()
    )


def _training_after(steps, checkpoints):
    """Data, images and baseline are finished, and the fine-tuning has a checkpoint."""
    finished = [path.stat().st_mtime for path in steps.glob("*.json")] if steps.exists() else []
    kept = [path.stat().st_mtime for path in checkpoints.glob("[0-9a-f]*")]
    # The baseline's own checkpoint is dropped a moment after the baseline is finished.
    return len(finished) == 3 and any(time > max(finished) for time in kept)


def _evidence_of(place, champion):
    for run in place.runs():
        path = place.root / "runs" / "tiny" / run / "evidence.json"
        evidence = json.loads(path.read_text())
        if ("champion" in evidence["models"]) == champion and evidence["threat"]["eps"] == 0.1:
            return evidence
    raise AssertionError("no such run")


def _timeless(evidence):
    """Evidence without what a clock measured."""
    for model in evidence["models"].values():
        del model["latency"], model["memory"], model["training_seconds"]
        for row in model["attacks"]:
            del row["seconds"]
    return evidence


def _servers(root):
    found = []
    for line in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            text = line.read_bytes().decode(errors="replace")
        except OSError:
            continue
        if "supervisor" in text and str(root) in text:
            found.append(line)
    return found
