"""A real MLflow in both forms, a real Prefect API, and a run of two tiny models."""

import ctypes
import hashlib
import os
import signal
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from hardening.evidence import (
    AttackRow,
    DataFacts,
    Evidence,
    File,
    Latency,
    Parity,
    Point,
    RunEvidence,
)
from hardening.statistics import accuracy
from hardening.threat import ThreatModel
from hardening.verdict import Gate, Verdict, judge
from tasks.mlflow_client import mlflow_client
from tasks.promotion import promote

# Prefect reads some of these when it is imported.
for key, value in {
    "DO_NOT_TRACK": "true",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_CLOUD_ENABLE_ORCHESTRATION_TELEMETRY": "false",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
    "PREFECT_LOGGING_LEVEL": "WARNING",
}.items():
    os.environ.setdefault(key, value)

IMAGES = 40


@pytest.fixture(scope="session")
def session_home(tmp_path_factory):
    return tmp_path_factory.mktemp("temper home")  # a space, as in many a home folder


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    """A tracking server on loopback that keeps artifacts itself; its address."""
    folder = tmp_path_factory.mktemp("mlflow-server")
    port = free_port()
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1"]
    command += ["--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{folder}/mlflow.db"]
    command += ["--artifacts-destination", str(folder / "artifacts")]
    quiet = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env={**os.environ, **quiet},
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=_die_with_parent,  # noqa: PLW1509 - nothing else runs in the child yet
        )
    uri = f"http://127.0.0.1:{port}"
    try:
        _await_health(uri, process, folder / "log")
        yield uri
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(30)


@pytest.fixture(params=["embedded"])
def store(request, session_home, monkeypatch):
    """Which of the two forms of MLflow the test runs on; see `on_both`."""
    monkeypatch.setenv("TEMPER_HOME", str(session_home))
    if request.param == "server":
        monkeypatch.setenv("MLFLOW_TRACKING_URI", request.getfixturevalue("server"))
    else:
        monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return request.param


@pytest.fixture
def client(store):
    with mlflow_client() as found:
        yield found


@pytest.fixture
def name(request):
    """A name of an experiment or a registered model that no other test uses."""
    return "n" + hashlib.sha256(request.node.nodeid.encode()).hexdigest()[:12]


@pytest.fixture(scope="session")
def tiny_onnx() -> Callable[[float], bytes]:
    """Builds a file (B, 1, 2, 2) -> (B, 3), whose weights are all `scale`."""

    def build(scale: float = 1.0) -> bytes:
        weights = numpy_helper.from_array(np.full((4, 3), scale, np.float32), "weights")
        graph = helper.make_graph(
            [
                helper.make_node("Flatten", ["input"], ["flat"]),
                helper.make_node("MatMul", ["flat", "weights"], ["logits"]),
            ],
            "tiny",
            [helper.make_tensor_value_info("input", onnx.TensorProto.FLOAT, ["batch", 1, 2, 2])],
            [helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, ["batch", 3])],
            [weights],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
        return model.SerializeToString()

    return build


@pytest.fixture(scope="session")
def make_model() -> Callable[..., Evidence]:
    """Builds the evidence of one model of which `robust` of 40 images survive."""

    def build(
        name: str, data: bytes, robust: int, role: str = "candidate", seconds: float = 1.5
    ) -> Evidence:
        survived = [i < robust for i in range(IMAGES)]
        fell = [*range(robust, IMAGES)]
        row = AttackRow(
            name="apgd-ce",
            attack="apgd",
            params={"steps": 100},
            source="file",
            kind="white-box",
            accuracy=accuracy(survived),
            attacked=IMAGES,
            sampled=False,
            fell=fell,
            step=[5] * len(fell),
            distance=[0.1] * len(fell),
            unconfirmed=0,
            lost_in_8_bits=0,
            forwards=5,
            backwards=5,
            budget_forwards=100,
            budget_backwards=100,
            seconds=0.1,
            adversarial=["0" * 64],
        )
        return Evidence(
            name=name,
            role=role,
            defenses=[] if role == "control" else [{"name": "trades", "params": {"epochs": 5}}],
            due=["white-box"],
            file=File(
                sha256=hashlib.sha256(data).hexdigest(),
                bytes=len(data),
                precision="float32",
                opset=18,
                operators={"Flatten": 1, "MatMul": 1},
                providers=["CPUExecutionProvider"],
                threads=1,
                optimization="all",
            ),
            export_parity=None,
            twin_parity=Parity(
                images=40, max_difference=0.0, scale=1.0, agreement=1.0, near_ties=0
            ),
            clean=accuracy([True] * IMAGES),
            correct=[True] * IMAGES,
            attacks=[row],
            robust=accuracy(survived),
            survived=survived,
            falls_at=[None if stands else 1.0 for stands in survived],
            curve=[
                Point(eps=1.0, accuracy=accuracy([False] * IMAGES), unbounded=True),
                Point(eps=0.2, accuracy=accuracy(survived)),
                Point(eps=0.1, accuracy=accuracy([True] * IMAGES)),
            ],
            alarms=[],
            latency=[Latency(batch=1, p50_ms=0.1, p95_ms=0.2)],
            training_seconds=seconds,
            examples=[],
        )

    return build


@pytest.fixture(scope="session")
def make_run() -> Callable[..., RunEvidence]:
    """Builds the evidence of one run from the evidence of its models."""

    def build(name: str, *models: Evidence) -> RunEvidence:
        return RunEvidence(
            name=name,
            seed=0,
            config={"training": {"epochs": 5}, "notes": "x" * 900, "k" * 400: [1, 2], "odd:key": 1},
            threat=ThreatModel(norm="linf", eps=0.1),
            data=DataFacts(
                name="tiny",
                sha256="d" * 64,
                training_sha256="e" * 64,
                test_sha256="f" * 64,
                shape=[1, 2, 2],
                classes=["a", "b", "c"],
                counts={"test": IMAGES},
                checks={},
            ),
            images=IMAGES,
            image_indices_sha256="a" * 64,
            environment={"torch": "2.14.1", "platform": "Linux"},
            models={model.name: model for model in models},
        )

    return build


@pytest.fixture
def versions(client, name, tmp_path):
    """Registers versions 1, 2, ... of the given qualities."""

    def register(*qualities):
        client.create_registered_model(name)
        for quality in qualities:
            tags = {"quality": str(quality), "temper.robust_accuracy": str(quality)}
            client.create_model_version(name, tmp_path.as_uri(), tags=tags)

    return register


@pytest.fixture
def crowned(client, name, versions):
    """Makes versions 1, 2, ... champions, one after the other."""

    def crown(count):
        versions(*range(1, count + 1))
        for version in range(1, count + 1):
            promote(client, name, version, anybody, "better")

    return crown


def anybody(found):
    """Whoever is champion is beaten."""
    return True


class Case:
    """A run of `control` and `tuned`, judged, with its files; `digest` is unique to it."""

    def __init__(self, run: RunEvidence, gate: Gate, models: dict[str, bytes]) -> None:
        self.run, self.gate, self.models = run, gate, models
        self.verdict: Verdict = judge(run, gate)
        text = run.model_dump_json().encode()
        self.digest = hashlib.sha256(text).hexdigest()
        self.files = {
            "evidence.json": text,
            "verdict.json": self.verdict.model_dump_json().encode(),
            "gate.json": gate.model_dump_json().encode(),
            "report.html": b"<html></html>",
            "models/notes.txt": b"in a folder",
        }

    @property
    def arguments(self):
        return self.run, self.gate, self.verdict, self.files, self.models, self.digest


@pytest.fixture
def make_case(name, tiny_onnx, make_model, make_run) -> Callable[..., Case]:
    """Builds a case whose candidate has `robust` of 40; `champion` is the evaluated champion."""

    def build(
        robust: int = 30, scale: float = 2.0, least: float = 0.5, champion: tuple | None = None
    ) -> Case:
        control, tuned = tiny_onnx(1.0), tiny_onnx(scale)
        models = [
            make_model("control", control, 0, role="control"),
            make_model("tuned", tuned, robust),
        ]
        if champion is not None:
            its_scale, its_robust = champion
            models.append(make_model("old", tiny_onnx(its_scale), its_robust, role="champion"))
        # Of forty images the margin of clean accuracy would say nothing.
        gate = Gate(robust_accuracy=least, champion_clean_margin=0.2)
        return Case(make_run(name, *models), gate, {"control": control, "tuned": tuned})

    return build


@pytest.fixture(scope="session")
def free_port_number():
    return free_port()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)


def _await_health(uri: str, process: subprocess.Popen, log: Path) -> None:
    for _ in range(1800):  # three minutes: the machine may be busy
        try:
            urllib.request.urlopen(f"{uri}/health", timeout=1)
        except (urllib.error.URLError, OSError):
            assert process.poll() is None, log.read_text()
            threading.Event().wait(0.1)
        else:
            return
    raise AssertionError(f"no answer from {uri}: {log.read_text()}")
