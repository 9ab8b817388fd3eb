"""The stack as a developer starts it: everything is there, and what happens in MLflow is done."""

import base64
import hashlib
import hmac
import json
import os
import random
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
experiment = mlflow.set_experiment("arrivals").experiment_id
run = client.create_run(experiment)
path = pathlib.Path(sys.argv[1], "model.onnx")
path.write_bytes(f"this is no model: {sys.argv[2]}".encode())
client.log_artifact(run.info.run_id, str(path), "model")
if not client.search_registered_models("name='digits'"):
    client.create_registered_model("digits")
source = f"{run.info.artifact_uri}/model"
print(client.create_model_version("digits", source, run.info.run_id).version)
"""

TAG = """
import sys, mlflow
print(mlflow.MlflowClient().get_model_version("digits", sys.argv[1]).tags.get("temper.verdict", ""))
"""

KEPT = """
import json, mlflow
from tasks.s3 import Bucket
client = mlflow.MlflowClient()
experiment = client.get_experiment_by_name("digits").experiment_id
runs = [r for r in client.search_runs([experiment]) if "mlflow.parentRunId" not in r.data.tags]
print(json.dumps({
    "runs": [
        {
            "status": run.info.status,
            "uri": run.info.artifact_uri,
            "files": [info.path for info in client.list_artifacts(run.info.run_id)],
        }
        for run in runs
    ],
    "champion": client.get_model_version_by_alias("digits", "champion").tags,
    "keys": [entry.key for entry in Bucket("s3://temper").list()],
}))
"""

FIFTY = """
import json, sys, mlflow
client = mlflow.MlflowClient()
client.create_registered_model("fifty")
for quality in json.loads(sys.argv[1]):
    tags = {"quality": str(quality), "temper.robust_accuracy": str(quality)}
    client.create_model_version("fifty", "s3://temper/nowhere", tags=tags)
"""

PROMOTERS = """
import json, sys
from concurrent.futures import ThreadPoolExecutor
sys.path.insert(0, "tests/tracking")
from test_promotion import compete
from tasks.mlflow_client import mlflow_client
with mlflow_client() as client, ThreadPoolExecutor(10) as pool:
    print("ready", flush=True)
    sys.stdin.readline()
    list(pool.map(lambda version: compete(client, "fifty", version), json.loads(sys.argv[1])))
"""

CHAIN = """
import json, sys
sys.path.insert(0, "tests/tracking")
from test_promotion import check_chain
from tasks.mlflow_client import mlflow_client
with mlflow_client() as client:
    print(json.dumps([entry.version for entry in check_chain(client, "fifty")]))
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
            timeout=600,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == expect, done.stdout + done.stderr
        return done.stdout

    def begin(self, *words: str) -> subprocess.Popen[str]:
        """A program that is spoken to."""
        return subprocess.Popen(
            [sys.executable, *words],
            env=self.environment,
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

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
    assert {
        "store",
        "MLflow",
        "artifacts",
        "webhook",
        "Prefect",
        "worker",
        "slot",
        "secret",
    } <= names


def test_all_deployments_are_made_and_scheduled_runs_wait(stack, deployed):
    assert deployed.count("successfully created") == 7
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
    assert stack.python("-c", REGISTER, str(tmp_path), "one") == "1\n"
    until(lambda: stack.events("temper.model-version.created"), 60)
    assert [deliver(stack, 1) for _ in range(5)] == [202] * 5
    verdict = until(lambda: stack.python("-c", TAG, "1").strip())
    assert verdict.startswith("refused")
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


def test_the_demo_on_the_stack_keeps_everything_in_its_servers(stack, tmp_path):
    demo = "flows/configs/digits.yaml"
    stack.python("-m", "flows", "harden", demo, "--output", str(tmp_path))

    found = json.loads(stack.python("-c", KEPT))
    [run] = found["runs"]
    assert run["status"] == "FINISHED"
    assert run["uri"].startswith("mlflow-artifacts:")
    assert {"evidence.json", "report.html", "verdict.json"} <= {*run["files"]}
    assert found["champion"]["temper.verdict"] == "passed"
    kept = [key.split("/") for key in found["keys"]]
    assert {"evidence.json", "model.onnx"} <= {names[-1] for names in kept if names[0] == "mlflow"}
    folders = [names[1] for names in kept if names[0] == "store"]
    assert {*folders} >= {"blobs", "steps", "ledger"}
    assert folders.count("steps") > 10
    assert "checkpoints" not in folders
    evidence = (tmp_path / "digits" / "latest" / "evidence.json").read_bytes()
    assert hashlib.sha256(evidence).hexdigest() in {names[-1] for names in kept}
    assert not [name for name in ("store", "mlflow") if (stack.home / name).exists()]
    slots = stack.events("prefect.concurrency-limit.acquired")
    assert len(slots) >= 2  # the control's training and the hardening
    plan = json.loads(stack.python("-m", "flows", "check", demo, "--json"))
    costly = [step for step in plan if step["step"] in ("train_control", "defend", "export_file")]
    assert len(costly) >= 4
    assert all(step["cached"] for step in costly)


def test_of_fifty_promoters_some_of_them_killed_the_best_is_champion(stack):
    rng = random.Random(2)
    qualities = rng.sample(range(1, 1000), 50)
    stack.python("-c", FIFTY, json.dumps(qualities))
    shares = [[*range(place + 1, 51, 5)] for place in range(5)]  # ten threads in each of five
    started = [stack.begin("-c", PROMOTERS, json.dumps(share)) for share in shares]
    for process in started:
        assert process.stdout.readline() == "ready\n"
    for process in started:
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in started[:2]:
        time.sleep(rng.uniform(0.5, 3))
        process.kill()
    assert [process.wait(300) for process in started] == [-9, -9, 0, 0, 0]

    made = [qualities[version - 1] for version in json.loads(stack.python("-c", CHAIN))]
    assert made == sorted(made)
    # One that was killed may have been champion by then.
    assert made[-1] >= max(qualities[version - 1] for share in shares[2:] for version in share)


def test_what_ends_is_told_and_nothing_survives_the_parent(stack, deployed, tmp_path):
    services = stack.services()
    os.kill(services["receiver"]["pid"], signal.SIGKILL)
    until(lambda: not stack.services()["receiver"]["running"], 10)
    assert "ENDED" in stack.python("-m", "infra.stack", "status", expect=1)
    findings = json.loads(stack.python("-m", "flows", "doctor", "--json", expect=2))
    [wrong] = [finding for finding in findings if not finding["ok"]]
    assert wrong["check"] == "webhook"
    assert "temper receive" in wrong["cure"]

    version = stack.python("-c", REGISTER, str(tmp_path), "unheard of").strip()
    stack.python("-m", "prefect", "deployment", "run", "sweep/sweep")
    assert until(lambda: stack.python("-c", TAG, version).strip()).startswith("refused")

    parent = int((stack.home / "stack" / "supervisor.lock").read_text())
    os.kill(parent, signal.SIGKILL)
    left = [each["pid"] for each in services.values()]
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in left), 60)
    assert "does not run" in stack.python("-m", "infra.stack", "status", expect=1)
