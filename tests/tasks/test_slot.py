"""Of all that name one slot of a real Prefect server, one trains at a time."""

import os
import subprocess
import sys
import time
from contextvars import copy_context
from threading import Thread

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate

from hardening.errors import ServiceError
from tasks import doctor_services
from tasks.server import api
from tasks.slot import slot
from tasks.step import Run

pytestmark = pytest.mark.slow  # a Prefect server

CONTENDER = """
import sys, time
from tasks.slot import slot
with slot(lambda text: print(text, flush=True)):
    print("holds it", time.time(), flush=True)
    sys.stdin.readline()
print("let go", time.time(), flush=True)
"""


@pytest.fixture(scope="module")
def prefect(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith(("PREFECT_", "TEMPER_"))]:
            patch.delenv(name)
        patch.setenv("TEMPER_HOME", str(tmp_path_factory.mktemp("home")))
        patch.setenv("TEMPER_SERVER_LINGER", "1")
        with api(), get_client(sync_client=True) as client:
            for name in ("gpu:0", "gpu:1"):
                limit = GlobalConcurrencyLimitCreate(name=name, limit=1)
                client.create_global_concurrency_limit(limit)
            yield client


def contender(name: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", CONTENDER],
        env={**os.environ, "TEMPER_SLOT": name},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def test_the_second_waits_for_the_slot_of_the_first_and_not_for_another(prefect, monkeypatch):
    monkeypatch.setenv("TEMPER_SLOT", "gpu:0")
    said = []
    with slot(said.append):
        same, other = contender("gpu:0"), contender("gpu:1")
        assert same.stdout.readline() == "waits for the slot gpu:0\n"
        assert other.stdout.readline() == "waits for the slot gpu:1\n"
        assert other.stdout.readline().startswith("holds it")
        heard = []
        Thread(target=lambda: heard.append(same.stdout.readline()), daemon=True).start()
        time.sleep(4)  # it asks again every other second
        assert heard == []
        assert prefect.read_global_concurrency_limit_by_name("gpu:0").active_slots == 1
        let_go = time.time()
    while not heard:
        time.sleep(0.05)
    assert float(heard[0].removeprefix("holds it ")) > let_go
    for process in (same, other):
        process.communicate("\n", timeout=30)
        assert process.returncode == 0
    assert prefect.read_global_concurrency_limit_by_name("gpu:0").active_slots == 0


def test_two_threads_of_one_run_never_hold_it_together_and_waiting_is_no_work(prefect, monkeypatch):
    monkeypatch.setenv("TEMPER_SLOT", "gpu:0")
    spans, seconds = [], []

    def train() -> None:
        run = Run(None, "key", "train")
        with run.slot():
            began = time.monotonic()
            time.sleep(1.5)
            spans.append((began, time.monotonic()))
            seconds.append(run.seconds)

    # As Prefect's task runner does; without its context Prefect asks another server.
    threads = [Thread(target=copy_context().run, args=(train,)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    (_, first_end), (second_start, _) = sorted(spans)
    assert second_start > first_end
    assert all(1.5 <= each < 2.5 for each in seconds)


def test_what_fails_lets_go(prefect, monkeypatch):
    monkeypatch.setenv("TEMPER_SLOT", "gpu:1")
    with pytest.raises(ZeroDivisionError), slot(lambda _: None):
        raise ZeroDivisionError
    assert prefect.read_global_concurrency_limit_by_name("gpu:1").active_slots == 0


def test_a_slot_that_prefect_does_not_know_is_named_with_its_cure(prefect, monkeypatch):
    monkeypatch.setenv("TEMPER_SLOT", "gpu:7")
    expected = r"^TEMPER_SLOT: got 'gpu:7', .*; `prefect gcl create gpu:7 --limit 1`$"
    with pytest.raises(ServiceError, match=expected), slot(lambda _: None):
        pytest.fail("trains without a slot")
    finding = next(f for f in doctor_services.orchestration() if f.check == "slot")
    assert not finding.ok
    assert "prefect gcl create gpu:7 --limit 1" in finding.cure


def test_without_a_name_nothing_is_asked_of_prefect(monkeypatch):
    monkeypatch.delenv("TEMPER_SLOT", raising=False)
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    with slot(pytest.fail):
        pass
