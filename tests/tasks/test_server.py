"""A real Prefect server of our own: shared while it is used, gone soon after, never an orphan."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hardening.errors import ConfigError, ServiceError
from tasks.server import begin

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/cwd").exists(), reason="processes are found through /proc"
)

LINGER = 1.0
"""Seconds; the servers of these tests do not wait for longer."""

USER = """
import os, sys, time
from tasks.server import begin
started = time.monotonic()
handle = begin()
begun = time.monotonic() - started
print(handle.wait(), begun, flush=True)
sys.stdin.readline()
"""

FLOWS = """
import json, os
from tasks.server import api
with api() as url:
    from prefect import flow, task
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY as FREQUENCY
    @task
    def double(x): return 2 * x
    @flow
    def doubles(): return [double(x) for x in range(3)]
    said = dict(url=url, result=doubles(), heartbeat=FREQUENCY.value())
    with get_client(sync_client=True) as client:
        said["states"] = [run.state.name for run in client.read_flow_runs()]
    said["inside"] = os.environ["PREFECT_API_URL"]
said["after"] = os.environ.get("PREFECT_API_URL")
said["quiet"] = os.environ.get("DO_NOT_TRACK")
print(json.dumps(said))
"""


def until(condition: Callable[[], object], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.05)


def processes(home: Path) -> list[int]:
    """The supervisors and servers of `home`: they work in its folder."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and Path(os.readlink(entry / "cwd")) == home / "prefect":
                found.append(int(entry.name))
        except OSError:
            continue  # it has just ended, or is not ours
    return found


def supervisor(home: Path) -> int:
    [pid] = [
        p for p in processes(home) if b"run" in Path(f"/proc/{p}/cmdline").read_bytes().split(b"\0")
    ]
    return pid


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=5) as answer:
            return answer.status == 200
    except OSError:
        return False


@pytest.fixture
def environment(home: Path, monkeypatch) -> dict[str, str]:
    """Variables that lead to `home` and to no other Prefect, here and for child processes."""
    for name in [n for n in os.environ if n.startswith(("PREFECT_", "TEMPER_", "DO_NOT"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("TEMPER_HOME", str(home))
    monkeypatch.setenv("TEMPER_SERVER_LINGER", str(LINGER))
    return dict(os.environ)


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Iterator[Path]:
    """One home for all tests here, so that the database is built once."""
    home = tmp_path_factory.mktemp("temper-home").resolve()
    yield home
    until(lambda: not processes(home))


@pytest.fixture
def user(environment) -> Iterator[Callable[[], subprocess.Popen]]:
    """Starts processes that use the server until they are told to stop."""
    started: list[subprocess.Popen] = []

    def start() -> subprocess.Popen:
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        started.append(subprocess.Popen([sys.executable, "-c", USER], env=environment, **pipes))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def told(process: subprocess.Popen) -> tuple[str, float]:
    """The address a user got, and how long `begin` took."""
    url, begun = process.stdout.readline().split()
    return url, float(begun)


def test_two_starters_share_one_server_that_ends_after_both_are_killed(user, home):
    first, second = user(), user()
    (url, begun), (other, _) = told(first), told(second)
    assert url == other
    assert url.startswith("http://127.0.0.1:")
    assert answers(url)
    assert begun < 2
    assert len(processes(home)) == 2  # one supervisor, one server

    first.kill()
    second.send_signal(signal.SIGSTOP)  # a user that hangs is still a user
    time.sleep(2 * LINGER)
    assert answers(url)

    second.kill()
    until(lambda: not processes(home), LINGER + 10)
    assert not answers(url)


def test_flows_run_on_it_and_the_settings_are_restored(user, environment):
    url, _ = told(user())
    command = [sys.executable, "-c", FLOWS]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    said = json.loads(done.stdout)
    assert said["url"] == said["inside"] == url
    assert said["result"] == [0, 2, 4]
    assert set(said["states"]) == {"Completed"}
    assert said["heartbeat"] is None
    assert said["after"] is None
    assert said["quiet"] is None


def test_no_server_survives_its_supervisor_and_the_next_user_starts_another(
    user, environment, home
):
    url, _ = told(user())
    killed = supervisor(home)
    os.kill(killed, signal.SIGKILL)
    until(lambda: not processes(home), 10)
    assert not answers(url)
    assert (home / "prefect" / "address").exists()  # and is not believed
    with begin():
        until(lambda: len(processes(home)) == 2)
        assert supervisor(home) != killed
        os.kill(supervisor(home), signal.SIGTERM)
        until(lambda: not processes(home), 15)


def test_a_server_that_cannot_start_is_an_error_with_the_end_of_its_log(
    environment, home, tmp_path, monkeypatch
):
    (tmp_path / "prefect").mkdir()
    (tmp_path / "prefect" / "prefect.db").write_bytes(b"not a database" * 1000)
    monkeypatch.setenv("TEMPER_HOME", str(tmp_path))
    with (
        begin() as handle,
        pytest.raises(ServiceError, match=r"server\.log ends with: .*not a database") as caught,
    ):
        handle.wait()
    assert "\n" not in str(caught.value)
    until(lambda: not processes(tmp_path), 5)


def test_a_given_server_that_is_dead_is_named_and_none_is_started(environment, home, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    monkeypatch.setenv("PREFECT_API_URL", f"http://me:hush@127.0.0.1:{port}/api")
    monkeypatch.setenv("TEMPER_HOME", str(home / "untouched"))
    started = time.monotonic()
    with (
        begin() as handle,
        pytest.raises(ServiceError, match=rf"127\.0\.0\.1:{port}/api: does not") as caught,
    ):
        handle.wait()
    assert "hush" not in str(caught.value)
    assert time.monotonic() - started < 15
    assert not (home / "untouched").exists()


def test_a_home_that_cannot_be_written_is_named(environment, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("TEMPER_HOME", str(tmp_path / "file"))
    before = dict(os.environ)
    with pytest.raises(ConfigError, match=f"{tmp_path}/file/prefect: cannot be written"):
        begin()
    assert dict(os.environ) == before
