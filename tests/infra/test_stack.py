"""The stack as a developer starts it: everything is there, and what happens in MLflow is done."""

import base64
import hashlib
import hmac
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from hardening.errors import ConfigError
from infra.postgres import program

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]

REGISTER = """
import sys, pathlib, mlflow
client = mlflow.MlflowClient()
run = client.create_run(client.create_experiment("arrivals"))
path = pathlib.Path(sys.argv[1], "model.onnx")
path.write_bytes(b"this is no model")
client.log_artifact(run.info.run_id, str(path), "model")
client.create_registered_model("digits")
client.create_model_version("digits", f"{run.info.artifact_uri}/model", run.info.run_id)
"""

TAG = """
import mlflow
print(mlflow.MlflowClient().get_model_version("digits", "1").tags.get("temper.verdict", ""))
"""

NOTIFY = """
import sys
from prefect.blocks.notifications import CustomWebhookNotificationBlock as Block
block = Block(
    name="chat", url=sys.argv[1], json_data={"text": "{{subject}}"}, allow_private_urls=True
)
print(block.save("temper"))
"""

PROMOTED = """
from prefect import flow
from tasks import events
@flow
def tell():
    for _ in range(2):
        events.tell(events.promoted("digits", 7, "better beyond the noise", "d" * 64))
tell()
"""


class Stack:
    """A running stack, and the ways to it."""

    def __init__(self, home: Path) -> None:
        self.home = home
        names = ("PREFECT_", "MLFLOW_", "AWS_", "TEMPER_")
        self.environment = {k: v for k, v in os.environ.items() if not k.startswith(names)}
        self.environment |= {"TEMPER_HOME": str(home), "PYTHONPATH": str(ROOT)}

    def python(self, *words: str, expect: int = 0) -> str:
        """What a program says on standard output; it ends with that code."""
        command = [sys.executable, *words]
        done = subprocess.run(
            command,
            env=self.environment,
            cwd=ROOT,
            timeout=400,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == expect, done.stdout + done.stderr
        return done.stdout

    def services(self) -> dict[str, dict]:
        path = self.home / "stack" / "state.json"
        return json.loads(path.read_text())["services"]

    def source(self) -> None:
        """As a shell does with env.sh."""
        text = (self.home / "stack" / "env.sh").read_text()
        self.environment |= dict(re.findall(r"export (\w+)=(\S+)", text))

    def prefect(self, path: str, body: dict) -> object:
        user = self.environment["PREFECT_API_AUTH_STRING"].encode()
        headers = {
            "authorization": f"Basic {base64.b64encode(user).decode()}",
            "content-type": "application/json",
        }
        url = f"{self.environment['PREFECT_API_URL']}{path}"
        request = urllib.request.Request(url, json.dumps(body).encode(), headers)
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.loads(answer.read())

    def events(self, name: str) -> list[dict]:
        found = self.prefect("/events/filter", {"filter": {"event": {"name": [name]}}})
        return found["events"]


def until(condition: Callable[[], object], seconds: float = 240.0) -> object:
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.5)
    return found


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    try:
        program("initdb")
    except ConfigError as error:
        pytest.skip(str(error))
    home = Path(tempfile.mkdtemp(prefix="temper-stack-"))
    home.chmod(0o711)  # PostgreSQL runs as another user when we are root
    stack = Stack(home)
    try:
        stack.python("-m", "infra.stack", "up")
        stack.source()
        yield stack
    finally:
        stack.python("-m", "infra.stack", "down")
        shutil.rmtree(home)


@pytest.fixture(scope="module")
def deployed(stack) -> str:
    words = ("deploy", "--all", "--prefect-file", "infra/prefect.yaml")
    return stack.python("-m", "prefect", "--no-prompt", *words)


def test_secrets_are_for_their_owner_only(stack):
    kept = stack.home / "stack"
    for path in kept.iterdir():
        if path.is_file() and path.name != "supervisor.lock":
            assert path.stat().st_mode & 0o077 == 0, path
    for folder in ("postgres", "seaweedfs", "prefect", "log"):
        assert (kept / folder).stat().st_mode & 0o077 == 0, folder
    words = [w for w in stack.environment.values() if len(w) == 48]
    assert len(set(words)) == 3  # S3's two and the webhook's
    for service in stack.services().values():
        command = Path(f"/proc/{service['pid']}/cmdline").read_text()
        assert not [word for word in words if word in command]


def test_the_doctor_finds_all_well(stack):
    findings = json.loads(stack.python("-m", "flows", "doctor", "--json"))
    names = {finding["check"] for finding in findings}
    assert {"store", "MLflow", "artifacts", "webhook", "Prefect", "worker", "secret"} <= names


def test_all_deployments_are_made_and_scheduled_runs_wait(stack, deployed):
    assert deployed.count("successfully created") == 6
    filters = {"flow_runs": {"state": {"type": {"any_": ["SCHEDULED"]}}}, "limit": 50}

    def nightly() -> list[dict]:
        runs = stack.prefect("/flow_runs/filter", filters)
        return [r for r in runs if r["auto_scheduled"] and "T02:00:00" in r["expected_start_time"]]

    until(nightly, 60)


def deliver(stack: Stack, version: int) -> int:
    """Tell the receiver as MLflow does; the status."""
    secret = stack.environment["TEMPER_WEBHOOK_SECRET"].encode()
    data = {"name": "digits", "version": str(version)}
    body = json.dumps({"entity": "model_version", "action": "created", "data": data}).encode()
    delivery, now = str(uuid.uuid4()), str(int(time.time()))
    digest = hmac.digest(secret, f"{delivery}.{now}.".encode() + body, hashlib.sha256)
    headers = {
        "Content-Type": "application/json",
        "X-MLflow-Delivery-Id": delivery,
        "X-MLflow-Timestamp": now,
        "X-MLflow-Signature": f"v1,{base64.b64encode(digest).decode()}",
    }
    url = f"http://{stack.services()['receiver']['address']}/mlflow"
    with urllib.request.urlopen(urllib.request.Request(url, body, headers), timeout=30) as answer:
        return answer.status


def test_a_version_in_mlflow_is_one_event_one_run_and_gets_its_verdict(stack, deployed, tmp_path):
    stack.python("-c", REGISTER, str(tmp_path))
    until(lambda: stack.events("temper.model-version.created"), 60)
    assert [deliver(stack, 1) for _ in range(5)] == [202] * 5
    until(lambda: stack.python("-c", TAG).strip())
    assert stack.python("-c", TAG).startswith("refused")
    told = [
        event
        for event in stack.events("temper.model-version.created")
        if event["resource"]["mlflow.model"] == "digits"
    ]
    assert len(told) == 1
    filters = {"deployments": {"name": {"any_": ["intake"]}}}
    [run] = stack.prefect("/flow_runs/filter", filters)
    assert run["parameters"] == {"config": "flows/configs/digits.yaml", "version": 1}
    assert run["created_by"]["display_value"] == "temper-intake"


def test_a_promotion_is_told_once_to_whom_the_template_says(stack, tmp_path):
    heard: list[dict] = []

    class Chat(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            heard.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Chat)
    Thread(target=server.serve_forever, daemon=True).start()
    block = stack.python("-c", NOTIFY, f"http://127.0.0.1:{server.server_address[1]}/").strip()
    template = (ROOT / "infra" / "notifications.yaml").read_text()
    given = tmp_path / "notifications.yaml"
    given.write_text(template.replace(" BLOCK\n", f" {block}\n"))
    stack.python("-m", "prefect", "automation", "create", "--from-file", str(given))
    stack.python("-c", PROMOTED)
    until(lambda: heard, 60)
    time.sleep(3)
    assert heard == [{"text": "Temper: digits version 7 is champion"}]
    server.shutdown()


def test_what_ends_is_told_and_nothing_survives_the_parent(stack):
    services = stack.services()
    os.kill(services["receiver"]["pid"], signal.SIGKILL)
    until(lambda: not stack.services()["receiver"]["running"], 10)
    assert "ENDED" in stack.python("-m", "infra.stack", "status", expect=1)
    findings = json.loads(stack.python("-m", "flows", "doctor", "--json", expect=2))
    [wrong] = [finding for finding in findings if not finding["ok"]]
    assert wrong["check"] == "webhook"
    assert "temper receive" in wrong["cure"]

    parent = int((stack.home / "stack" / "supervisor.lock").read_text())
    os.kill(parent, signal.SIGKILL)
    left = [each["pid"] for each in services.values()]
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in left), 60)
    assert "does not run" in stack.python("-m", "infra.stack", "status", expect=1)
