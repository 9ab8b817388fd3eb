"""Setting up says what is wrong in one line; what it makes in Prefect outlives a restart."""

import os
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import pytest
import yaml
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.events import Event
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Completed, Running, Scheduled

from infra import setup

ROOT = Path(__file__).parents[2]
NAME = "PREFECT_SERVER_EVENTS_EXPIRED_BUCKET_BUFFER"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["receiver:4300"], "setup: URL: got 'receiver:4300', expected http://"),
        (["http://r/mlflow"], "setup: PREFECT_API_URL: got nothing"),
    ],
)
def test_what_is_wrong_is_one_line_before_anything_is_made(
    arguments, says, monkeypatch, capsys, tmp_path
):
    monkeypatch.setenv("TEMPER_HOME", str(tmp_path))
    monkeypatch.setattr(setup, "make_bucket", pytest.fail)
    with temporary_settings(restore_defaults={PREFECT_API_URL}):
        assert setup.main(arguments) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(says)


def test_without_an_address_nothing_is_made(monkeypatch, capsys):
    monkeypatch.setattr(setup, "make_bucket", pytest.fail)
    with pytest.raises(SystemExit) as ended:
        setup.main([])
    assert ended.value.code == 2
    assert "required: URL" in capsys.readouterr().err


@pytest.mark.parametrize("fault", ["TEMPER_WEBHOOK_SECRET", "AWS_ENDPOINT_URL", "PREFECT_API_URL"])
def test_a_server_that_is_away_is_one_line(fault, monkeypatch, capsys, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        nobody = f"http://127.0.0.1:{listener.getsockname()[1]}"
    monkeypatch.setenv("TEMPER_HOME", str(tmp_path))
    monkeypatch.setenv(
        "TEMPER_WEBHOOK_SECRET", "" if fault == "TEMPER_WEBHOOK_SECRET" else "x" * 20
    )
    monkeypatch.setenv("PREFECT_CLIENT_MAX_RETRIES", "0")
    if fault == "AWS_ENDPOINT_URL":
        monkeypatch.setenv("TEMPER_STORE", "s3://temper/store")
        monkeypatch.setenv("AWS_ENDPOINT_URL", nobody)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
    else:
        monkeypatch.delenv("TEMPER_STORE", raising=False)
    with temporary_settings({PREFECT_API_URL: f"{nobody}/api"}):
        assert setup.main(["http://r/mlflow"]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert ("s3://temper/store" if fault == "AWS_ENDPOINT_URL" else fault) in line


@contextmanager
def server(folder: Path, port: int):
    """Prefect's server with what it keeps in `folder`; killed at the end, like a machine."""
    compose = yaml.safe_load((ROOT / "infra" / "compose.yaml").read_text())
    given = compose["services"]["prefect"]["environment"][NAME]
    own = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    with (folder / "log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "prefect", "server", "start", "--port", str(port)],
            env={**own, "PREFECT_HOME": str(folder), "DO_NOT_TRACK": "true", NAME: given},
            stdout=log,
            stderr=log,
        )
    try:
        deadline = time.monotonic() + 300
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/api/health", timeout=2).close()
                break
            except OSError:
                assert time.monotonic() < deadline
                assert process.poll() is None, (folder / "log").read_text()
                time.sleep(0.2)
        with temporary_settings({PREFECT_API_URL: f"http://127.0.0.1:{port}/api"}):
            yield
    finally:
        process.kill()
        process.wait()


@flow
def nothing():
    """A flow of which there are runs."""


def happened(run: UUID, event: str, seconds_ago: float) -> dict:
    """An event of a run, as Prefect's own are."""
    told = Event(
        occurred=datetime.now(UTC) - timedelta(seconds=seconds_ago),
        event=f"prefect.flow-run.{event}",
        resource={"prefect.resource.id": f"prefect.flow-run.{run}"},
        related=[
            {"prefect.resource.id": "prefect.tag.temper", "prefect.resource.role": "tag"},
        ],
    )
    return told.model_dump(mode="json")


@pytest.mark.slow  # two starts of Prefect's server
def test_runs_that_went_silent_while_the_server_was_away_free_their_slots(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    made_as = {"stranded": Scheduled(), "ended": Completed()}
    told = {
        "killed": [("heartbeat", 3700), ("heartbeat", 3520), ("Running", 3519)],
        "stranded": [("Submitting", 3700), ("InfrastructurePending", 3699)],
        "ended": [("heartbeat", 3700)],  # and the event of its end was lost
        "alive": [("Submitting", 300), ("heartbeat", 290), ("heartbeat", 110)],
    }
    with server(tmp_path, port):
        for _ in range(2):  # the second time nothing is made again
            setup.make_pool()
            setup.make_automations()
        with get_client(sync_client=True) as client:
            made = {automation.name: automation.id for automation in client.read_automations()}
            assert len(client.read_automations()) == 2
            runs = {}
            for name in told:
                state = made_as.get(name, Running())
                run = client.create_flow_run(nothing, name=name, tags=["temper"], state=state)
                runs[name] = run.id
            time.sleep(6)  # the triggers are loaded
            for place in range(3):
                for name, events in told.items():
                    for event, ago in events[place : place + 1]:
                        client.request("POST", "/events", json=[happened(runs[name], event, ago)])
                time.sleep(4)  # in a run's life there is time between two events, too
            time.sleep(6)  # without the buffer, what is over is thrown away by now
    with server(tmp_path, port), get_client(sync_client=True) as client:
        setup.make_automations()
        assert {automation.name: automation.id for automation in client.read_automations()} == made

        def states() -> dict[str, str]:
            return {n: client.read_flow_run(run).state.type.value for n, run in runs.items()}

        deadline = time.monotonic() + 120
        while [states()["killed"], states()["stranded"]] != ["CRASHED", "CRASHED"]:
            assert time.monotonic() < deadline, states()
            time.sleep(1)
        time.sleep(5)
        assert (states()["ended"], states()["alive"]) == ("COMPLETED", "RUNNING")  # as before
