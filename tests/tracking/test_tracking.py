import socket
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import onnx
import pytest

from hardening.errors import BrokenPromise, DigestError, NumericsError, ServiceError
from tasks.mlflow_client import shown
from tasks.mlflow_model import fetch
from tasks.tracking import log_run, probe, tracking_uri

on_both = pytest.mark.parametrize("store", ["embedded", "server"], indirect=True)


def parents(client, name):
    found = client.get_experiment_by_name(name)
    runs = client.search_runs([found.experiment_id]) if found else []
    return [run for run in runs if "temper.evidence" in run.data.tags]


def nested(client, logged):
    runs = client.search_runs([logged.experiment_id])
    of_parent = [r for r in runs if r.data.tags.get("mlflow.parentRunId") == logged.run_id]
    return {run.data.tags["temper.model"]: run for run in of_parent}


@on_both
def test_what_is_logged_can_be_read_back(client, name, make_case, tmp_path):
    case = make_case()
    logged = log_run(*case.arguments)

    parent = client.get_run(logged.run_id)
    assert parent.info.status == "FINISHED"
    assert client.get_experiment(logged.experiment_id).name == name
    assert parent.data.params["training.epochs"] == "5"
    assert parent.data.params["gate.robust_accuracy"] == "0.5"
    assert parent.data.params["threat.eps"] == "0.1"
    assert len(parent.data.params["notes"]) == 500
    assert parent.data.tags["temper.evidence"] == case.digest
    assert parent.data.tags["temper.verdict"] == "passed"
    assert parent.data.tags["temper.threat"] == "linf eps 0.1"
    assert parent.data.tags["temper.data"] == "d" * 64
    assert parent.data.tags["temper.environment.torch"] == "2.14.1"
    for file, data in case.files.items():
        assert (
            Path(client.download_artifacts(logged.run_id, file, str(tmp_path))).read_bytes() == data
        )

    runs = nested(client, logged)
    assert set(runs) == {"control", "tuned"}
    metrics = runs["tuned"].data.metrics
    assert metrics["robust_accuracy"] == pytest.approx(0.75)
    assert metrics["robust_accuracy_lower"] < 0.75 < metrics["robust_accuracy_upper"]
    assert metrics["clean_accuracy"] == 1
    assert metrics["accuracy_after/apgd-ce"] == pytest.approx(0.75)
    assert metrics["unbounded_accuracy"] == 0
    assert metrics["size_bytes"] == len(case.models["tuned"])
    assert metrics["latency_p95_ms/batch_1"] == pytest.approx(0.2)
    assert metrics["training_seconds"] == 1.5
    assert runs["tuned"].data.params["chain"] == "trades"
    assert runs["tuned"].data.params["defenses.0.params.epochs"] == "5"
    assert all(run.info.status == "FINISHED" for run in runs.values())


def test_the_curve_keeps_its_eps(client, make_case):
    logged = log_run(*make_case().arguments)
    run_id = nested(client, logged)["tuned"].info.run_id

    def points(key):
        history = client.get_metric_history(run_id, key)
        return [m.value for m in sorted(history, key=lambda m: m.step)]

    assert points("curve_eps") == pytest.approx([0.1, 0.2])
    assert points("curve_robust_accuracy") == pytest.approx([1.0, 0.75])


def test_the_stored_model_is_the_file_byte_for_byte(client, make_case):
    case = make_case()
    logged = log_run(*case.arguments)
    assert set(logged.model_uris) == {"control", "tuned"}
    for model, uri in logged.model_uris.items():
        assert fetch(uri) == case.models[model]


@on_both
@pytest.mark.usefixtures("store")
def test_a_file_that_parses_to_other_bytes_is_stored_as_it_is(
    name, make_case, make_model, make_run, tiny_onnx
):
    # Protobuf lets fields come in any order: the same graph, with its opset in front.
    plain = onnx.load_model_from_string(tiny_onnx(2.0))
    opset = onnx.ModelProto(opset_import=plain.opset_import).SerializeToString()
    del plain.opset_import[:]
    odd = opset + plain.SerializeToString()
    assert onnx.load_model_from_string(odd).SerializeToString() != odd

    case = make_case()
    control = case.models["control"]
    models = make_model("control", control, 0, role="control"), make_model("tuned", odd, 30)
    run = make_run(name, *models)
    logged = log_run(
        run, case.gate, case.verdict, case.files, {"control": control, "tuned": odd}, case.digest
    )
    assert fetch(logged.model_uris["tuned"]) == odd


def test_the_stored_model_serves_and_refuses_a_wrong_shape(client, make_case):
    logged = log_run(*make_case(scale=2.0).arguments)
    import mlflow

    model = mlflow.pyfunc.load_model(logged.model_uris["tuned"])
    x = np.ones((5, 1, 2, 2), np.float32)
    logits = model.predict(x)
    logits = logits["logits"] if isinstance(logits, dict) else logits
    assert np.array_equal(logits, np.full((5, 3), 8, np.float32))
    with pytest.raises(mlflow.MlflowException, match="schema"):
        model.predict(np.ones((5, 3, 2, 2), np.float32))


@on_both
def test_logging_again_logs_nothing(client, name, make_case):
    case = make_case()
    first = log_run(*case.arguments)
    before = client.search_runs([first.experiment_id])
    models = client.search_logged_models([first.experiment_id])

    assert log_run(*case.arguments) == first
    assert len(client.search_runs([first.experiment_id])) == len(before)
    assert len(client.search_logged_models([first.experiment_id])) == len(models)


def test_another_gate_is_another_run_with_the_same_evidence(client, name, make_case):
    lenient, strict = make_case(least=0.5), make_case(least=0.9)
    assert lenient.digest == strict.digest
    assert log_run(*lenient.arguments).run_id != log_run(*strict.arguments).run_id
    verdicts = {run.data.tags["temper.verdict"] for run in parents(client, name)}
    assert verdicts == {"passed", "failed"}


class Breaking(Mapping[str, bytes]):
    """Files that cannot be read to the end."""

    def __getitem__(self, key: str) -> bytes:
        return b"partial"

    def __iter__(self) -> Iterator[str]:
        yield "evidence.json"
        raise RuntimeError("power cut")

    def __len__(self) -> int:
        return 2


@on_both
def test_a_run_that_broke_off_is_replaced_by_exactly_one_finished_run(client, name, make_case):
    case = make_case()
    broken = [*case.arguments]
    broken[3] = Breaking()
    for _ in range(2):
        with pytest.raises(RuntimeError, match="power cut"):
            log_run(*broken)
    assert {run.info.status for run in parents(client, name)} == {"FAILED", "KILLED"}

    logged = log_run(*case.arguments)
    runs = parents(client, name)
    assert [r.info.run_id for r in runs if r.info.status == "FINISHED"] == [logged.run_id]
    replaced = [r for r in runs if r.info.run_id != logged.run_id]
    assert len(replaced) == 2
    assert all("temper.replaced_by" in run.data.tags for run in replaced)


def test_a_run_whose_process_was_killed_is_replaced(client, name, make_case):
    case = make_case()
    finished = log_run(*case.arguments)
    client.update_run(finished.run_id, status="RUNNING")  # what SIGKILL before the end leaves

    logged = log_run(*case.arguments)
    assert logged.run_id != finished.run_id
    assert client.get_run(finished.run_id).info.status == "KILLED"
    statuses = {run.info.status for run in nested(client, finished).values()}
    assert statuses == {"KILLED"}


def test_a_number_that_is_not_finite_is_refused_before_anything_is_logged(
    client, name, make_case, make_model, make_run
):
    case = make_case()
    for value in (float("nan"), float("inf")):
        broken = make_model("tuned", case.models["tuned"], 30, seconds=value)
        run = make_run(name, case.run.models["control"], broken)
        with pytest.raises(NumericsError, match=r"'tuned': training_seconds is (nan|inf)"):
            log_run(run, case.gate, case.verdict, case.files, case.models, case.digest)
    assert client.get_experiment_by_name(name) is None


def test_a_file_that_was_not_measured_is_refused_before_anything_is_logged(
    client, name, make_case, tiny_onnx
):
    case = make_case()
    with pytest.raises(DigestError, match="'tuned'"):
        log_run(
            case.run,
            case.gate,
            case.verdict,
            case.files,
            {**case.models, "tuned": tiny_onnx(9.0)},
            case.digest,
        )
    assert client.get_experiment_by_name(name) is None


@pytest.mark.usefixtures("store")
def test_the_embedded_mlflow_leaves_the_working_folder_alone(
    tmp_path, monkeypatch, session_home, make_case
):
    monkeypatch.chdir(tmp_path)
    log_run(*make_case().arguments)
    assert list(tmp_path.iterdir()) == []
    assert tracking_uri() == f"sqlite:///{session_home}/mlflow/mlflow.db"
    assert list((session_home / "mlflow/artifacts").rglob("model.onnx"))

    monkeypatch.delenv("TEMPER_HOME")
    assert tracking_uri() == f"sqlite:///{tmp_path}/.temper/mlflow/mlflow.db"


class Growing(dict[str, bytes]):
    """Files that are longer each time they are read."""

    def items(self):
        for name in self:
            self[name] += b"."
        return super().items()


def test_a_run_whose_files_are_not_all_stored_is_not_finished(client, name, make_case):
    case = make_case()
    broken = [*case.arguments]
    broken[3] = Growing(case.files)
    with pytest.raises(BrokenPromise, match=r"artifact evidence\.json of MLflow run"):
        log_run(*broken)
    assert {run.info.status for run in parents(client, name)} == {"FAILED"}


def test_a_server_that_is_down_is_named_within_15_seconds(monkeypatch, free_port_number):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://user:word@127.0.0.1:{free_port_number}")
    start = time.monotonic()
    with pytest.raises(ServiceError, match=f"127.0.0.1:{free_port_number}") as caught:
        probe()
    assert time.monotonic() - start < 15
    assert "word" not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_a_server_that_never_answers_is_named_within_15_seconds(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as mute:
        port = mute.getsockname()[1]
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
        start = time.monotonic()
        with pytest.raises(ServiceError, match=f"127.0.0.1:{port}"):
            probe()
        assert time.monotonic() - start < 15


def test_a_server_that_is_no_mlflow_is_refused(monkeypatch, server):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"{server}/elsewhere")
    with pytest.raises(ServiceError, match="elsewhere: got status 404"):
        probe()


def test_a_running_server_answers(monkeypatch, server):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"{server}/")
    probe()


def test_a_home_that_cannot_hold_a_database_is_named_at_once(monkeypatch, tmp_path):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("TEMPER_HOME", str(tmp_path))
    (tmp_path / "mlflow").mkdir()
    (tmp_path / "mlflow" / "mlflow.db").write_text("not a database, whatever its name says" * 99)
    start = time.monotonic()
    with pytest.raises(ServiceError, match=r"mlflow\.db: .*not a database"):
        probe()
    assert time.monotonic() - start < 6


def test_passwords_are_not_shown():
    assert shown("postgresql://me:word@db/mlflow") == "postgresql://db/mlflow"
    assert shown("http://host:5000") == "http://host:5000"
