"""The doctor names what is wrong, and what to do: each fault has a cure of its own."""

import json
import socket
import subprocess
import sys
import threading
from contextlib import nullcontext
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import metadata
from types import SimpleNamespace

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from tasks import doctor, doctor_mlflow, doctor_services


@pytest.fixture(autouse=True)
def _alone(monkeypatch, tmp_path):
    """A home of its own, and none of this machine's servers."""
    monkeypatch.setenv("TEMPER_HOME", str(tmp_path / "home"))
    names = ("TEMPER_STORE", "MLFLOW_TRACKING_URI", "PREFECT_API_URL", "TEMPER_WEBHOOK_SECRET")
    for name in names:
        monkeypatch.delenv(name, raising=False)


def only(findings):
    [finding] = findings
    return finding


def closed() -> str:
    """An address where nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"http://127.0.0.1:{listener.getsockname()[1]}"


@pytest.fixture
def answer():
    """What `refuses` answers."""
    return {"status": 401, "body": b""}


@pytest.fixture
def refuses(answer):
    """A server that answers everything alike."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(answer["status"])
            self.end_headers()
            self.wfile.write(answer["body"])

        def log_message(self, *_arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join(10)
    server.server_close()


def test_a_machine_without_servers_is_well():
    findings = doctor.examine()
    assert [f.check for f in findings if not f.ok] == []
    assert [f.check for f in findings][:4] == ["versions", "home", "store", "MLflow"]


def test_a_version_out_of_bounds_is_named_with_its_bounds(monkeypatch):
    real = metadata.version
    monkeypatch.setattr(
        metadata, "version", lambda name: "2.1.9" if name == "sqlalchemy" else real(name)
    )
    finding = only(doctor._versions())
    assert not finding.ok
    assert finding.found == "sqlalchemy 2.1.9, expected <2.1,>=2.0"
    assert "constraints.txt" in finding.cure


def test_a_home_that_is_a_file_and_a_disk_that_is_full(monkeypatch, tmp_path):
    (tmp_path / "home").write_text("")
    finding = only(doctor._home())
    assert not finding.ok
    assert "TEMPER_HOME" in finding.cure
    (tmp_path / "home").unlink()
    monkeypatch.setattr(doctor, "LEAST_FREE", 1 << 60)
    finding = only(doctor._home())
    assert not finding.ok
    assert "expected at least" in finding.found


def test_a_secret_that_can_be_guessed_is_none(monkeypatch):
    monkeypatch.setenv("TEMPER_WEBHOOK_SECRET", "hush")
    finding = only(doctor._secret())
    assert not finding.ok
    assert "hush" not in finding.found


def test_a_good_bucket_is_well_and_left_as_it_was(s3, monkeypatch):
    s3.create_bucket(Bucket="doctor")
    monkeypatch.setenv("TEMPER_STORE", "s3://doctor/store")
    finding = only(doctor_services.store())
    assert finding.ok, finding
    keys = [entry["Key"] for entry in s3.list_objects_v2(Bucket="doctor").get("Contents", [])]
    assert keys == ["store/probe"]  # the one that every run writes


@pytest.mark.parametrize(
    ("fault", "cure"),
    [
        ({"TEMPER_STORE": "s3://no-such-bucket/x"}, "make the bucket"),
        ({"AWS_SECRET_ACCESS_KEY": "wrong"}, "the secret is not that of the key"),
        ({"AWS_ACCESS_KEY_ID": "nobody"}, "the server does not know the key"),
        ({"AWS_ENDPOINT_URL": "closed"}, "start the server, or correct AWS_ENDPOINT_URL"),
        ({"TEMPER_STORE": "ftp://x"}, "correct TEMPER_STORE"),
        ({"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}, "set AWS_ACCESS_KEY_ID"),
    ],
)
def test_what_is_wrong_with_a_store_has_a_cure_of_its_own(s3, monkeypatch, fault, cure):
    monkeypatch.setenv("TEMPER_STORE", "s3://tests/store")
    for name, value in fault.items():
        monkeypatch.setenv(name, closed() if value == "closed" else value)
        if not value:
            monkeypatch.delenv(name)
    finding = only(doctor_services.store())
    assert not finding.ok
    assert cure in finding.cure
    assert "\n" not in finding.found


def test_a_store_that_lets_a_second_writer_win_is_refused(monkeypatch, tmp_path):
    class Careless:
        def __init__(self) -> None:
            self.data: dict[str, bytes] = {}

        def create(self, name: str, data: bytes) -> bool:
            self.data[name] = data  # as a server that does not know If-None-Match
            return True

        def read(self, name: str) -> bytes:
            return self.data[name]

        def delete(self, name: str) -> None:
            del self.data[name]

    monkeypatch.setattr(doctor_services, "open_ground", lambda _uri: Careless())
    finding = only(doctor_services.store())
    assert not finding.ok
    assert "If-None-Match" in finding.cure


def test_an_mlflow_that_is_silent_or_lets_nobody_in(monkeypatch, refuses):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", closed())
    finding = only(doctor_mlflow.examine())
    assert not finding.ok
    assert "correct MLFLOW_TRACKING_URI" in finding.cure
    monkeypatch.setenv("MLFLOW_TRACKING_URI", refuses)
    finding = only(doctor_mlflow.examine())
    assert not finding.ok
    assert "MLFLOW_TRACKING_USERNAME" in finding.cure


def test_a_prefect_that_is_silent_or_lets_nobody_in(monkeypatch, refuses):
    for url, cure in (
        (closed(), "correct PREFECT_API_URL"),
        (refuses, "correct PREFECT_API_AUTH_STRING"),
    ):
        monkeypatch.setenv("PREFECT_API_URL", f"{url}/api")
        with temporary_settings({PREFECT_API_URL: f"{url}/api"}):
            finding = only(doctor_services.orchestration())
        assert not finding.ok
        assert cure in finding.cure


def test_a_database_is_really_asked_and_its_password_is_not_shown(monkeypatch):
    address = f"{closed().removeprefix('http://')}/mlflow"
    for password, found in (("hunter2", "cannot be opened"), ("hunt@er2", "as %40")):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"postgresql://temper:{password}@{address}")
        finding = only(doctor_mlflow.examine())
        assert not finding.ok
        assert found in finding.found
        assert "er2" not in finding.found + finding.cure
        assert "\n" not in finding.found


def test_a_prefect_address_that_is_a_page_is_no_prefect(monkeypatch, refuses, answer):
    answer.update(status=200, body=b"<html>Prefect UI</html>")
    monkeypatch.setenv("PREFECT_API_URL", refuses)
    with temporary_settings({PREFECT_API_URL: refuses}):
        finding = only(doctor_services.orchestration())
    assert not finding.ok
    assert "ends in /api" in finding.cure


def test_a_registry_for_all_machines_and_a_ledger_for_one_are_a_fault(monkeypatch):
    [finding] = doctor_mlflow._ledger("http://user:secret@mlflow.example.org")
    assert not finding.ok
    assert "secret" not in finding.found
    assert doctor_mlflow._ledger("http://127.0.0.1:5000") == []
    monkeypatch.setenv("TEMPER_STORE", "s3://bucket/store")
    assert doctor_mlflow._ledger("http://mlflow.example.org") == []


def test_artifacts_that_clients_write_themselves_need_keys(monkeypatch):
    class Client:
        def get_experiment(self, _name):
            return SimpleNamespace(artifact_location="s3://bucket/mlflow")

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setattr(doctor_mlflow, "mlflow_client", lambda: nullcontext(Client()))
    finding = doctor_mlflow._artifacts()
    assert not finding.ok
    assert "AWS_ACCESS_KEY_ID" in finding.cure


def test_a_check_that_breaks_is_a_finding_and_the_others_are_made(monkeypatch):
    def breaks():
        raise KeyError("postgresql://temper:hunter2@db/x")

    monkeypatch.setattr(doctor_mlflow, "examine", breaks)
    findings = {finding.check: finding for finding in doctor.examine()}
    assert not findings["MLflow"].ok
    assert "KeyError" in findings["MLflow"].found
    assert "hunter2" not in findings["MLflow"].found
    assert findings["CUDA"].ok


def test_the_command_says_it_in_json_and_by_its_exit_code(monkeypatch, tmp_path):
    monkeypatch.setenv("TEMPER_STORE", "ftp://x")
    command = [sys.executable, "-m", "flows", "doctor", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == ""
    wrong = [finding for finding in json.loads(done.stdout) if not finding["ok"]]
    assert [finding["check"] for finding in wrong] == ["store"]
