"""Of all who want a piece of work one has it, and what a killed one left is taken over."""

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import uuid4

import pytest

from hardening.errors import ServiceError
from tasks import claims
from tasks.claims import claim
from tasks.store import open_ground

ROOT = Path(__file__).parents[2]

LONG = 60.0
"""A claim that does not run out while a test takes."""


@pytest.fixture(params=["file", "s3"])
def ground(request, tmp_path):
    if request.param == "file":
        return open_ground(tmp_path.as_uri())
    request.getfixturevalue("s3")
    return open_ground(f"s3://tests/{uuid4().hex}")


@pytest.fixture
def folder(tmp_path):
    return open_ground(tmp_path.as_uri())


def test_of_twenty_who_want_it_at_once_one_has_it(ground):
    tried = []

    def want(_):
        with claim(ground, "work", LONG) as ours:
            tried.append(ours)
            while len(tried) < 20:
                time.sleep(0.01)
            return ours

    with ThreadPoolExecutor(20) as pool:
        assert sum(pool.map(want, range(20))) == 1


def test_what_was_released_can_be_claimed_again(ground):
    for _ in range(9):
        with claim(ground, "work", LONG) as ours, claim(ground, "work", LONG) as again:
            assert (ours, again) == (True, False)


def test_a_claim_outlives_its_seconds_while_the_work_runs(ground):
    with claim(ground, "work", 1.0):
        time.sleep(2.5)
        with claim(ground, "work", 1.0) as again:
            assert not again


def test_work_that_fails_is_released(folder):
    with pytest.raises(ZeroDivisionError), claim(folder, "work", LONG):
        raise ZeroDivisionError
    with claim(folder, "work", LONG) as ours:
        assert ours


def test_one_claim_is_not_another(folder):
    with claim(folder, "a", LONG) as one, claim(folder, "b", LONG) as other:
        assert (one, other) == (True, True)


HOLDER = """
import sys, time
sys.path.insert(0, {root!r})
from tasks.claims import claim
from tasks.store import open_ground
with claim(open_ground({uri!r}), "work", 1.5) as ours:
    print(ours, flush=True)
    time.sleep(60)
"""


def test_the_work_of_a_killed_holder_is_taken_over_by_one_after_its_claim_ran_out(folder):
    code = HOLDER.format(root=str(ROOT), uri=folder.uri)
    holder = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline() == "True\n"
    time.sleep(2.0)  # it renews: the kill comes after the first of its entries ran out
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    killed = time.monotonic()

    with claim(folder, "work", LONG) as ours:
        assert not ours
    while True:
        with claim(folder, "work", LONG) as ours:
            if ours:
                break
        time.sleep(0.05)
    assert 0.5 < time.monotonic() - killed < 3


def asleep(holding, done):
    """A holder whose machine was suspended."""


def test_who_lost_the_claim_does_not_release_that_of_the_next(folder, monkeypatch):
    monkeypatch.setattr(claims._Holding, "renew", asleep)
    with claim(folder, "work", 0.1) as ours:
        time.sleep(0.2)
        follower = claim(folder, "work", LONG)
        assert (ours, follower.__enter__()) == (True, True)
    with claim(folder, "work", LONG) as third:
        assert not third
    follower.__exit__(None, None, None)


def test_a_store_that_fails_while_the_work_runs_does_not_end_it(folder, monkeypatch, capsys):
    with claim(folder, "work", 0.3) as ours:

        def fail(name, data):
            raise ServiceError("store: disk full")

        monkeypatch.setattr(folder, "create", fail)
        time.sleep(0.3)
    assert ours
    assert "cannot be renewed or released: store: disk full" in capsys.readouterr().err


def test_the_last_of_many_entries_is_found_by_looking_at_few(folder, monkeypatch):
    looked = []

    def size(name):
        looked.append(name)
        return 1 if int(name[-13:-5]) < 700 else None

    monkeypatch.setattr(folder, "size", size)
    assert claims._last(folder, "claims/work") == 699
    assert len(looked) < 25
