"""Many promoters at once, some of them killed: the best version that passes is champion."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from hardening.errors import BrokenPromise, ModelError
from tasks.promotion import history, ledger_of, promote, reigning, roll_back
from tasks.settings import store_uri
from tasks.store import open_ground
from tasks.versions import CHAMPION, under_alias

ROOT = Path(__file__).parents[2]


@pytest.fixture
def versions(client, name, tmp_path):
    """Registers versions 1, 2, ... of the given qualities."""

    def register(*qualities):
        client.create_registered_model(name)
        for quality in qualities:
            tags = {"quality": str(quality), "temper.robust_accuracy": str(quality)}
            client.create_model_version(name, tmp_path.as_uri(), tags=tags)

    return register


def anybody(found):
    return True


def quality(found):
    return float(found.tags["quality"]) if found else 0.0


def is_same(measured, found):
    return (measured and measured.version) == (found and found.version)


def compete(client, name, version):
    """What a run does: compare with the champion, promote what beats it, look again if it moved."""
    own = float(client.get_model_version(name, str(version)).tags["quality"])
    while True:
        measured = reigning(client, name)
        if quality(measured) >= own:
            return None
        same = partial(is_same, measured)
        try:
            return promote(client, name, version, same, "beats it")
        except BrokenPromise as error:
            assert "champion changed since the comparison" in str(error)  # noqa: PT017


def check_chain(client, name):
    entries = history(client, name)
    assert [entry.number for entry in entries] == list(range(len(entries)))
    assert [e.replaces for e in entries[1:]] == [e.version for e in entries[:-1]]
    promoted = [entry.version for entry in entries if entry.action == "promote"]
    assert len(promoted) == len({*promoted})
    assert under_alias(client, name, CHAMPION).version == entries[-1].version
    return entries


def test_of_fifty_promoters_at_once_the_best_is_champion_and_the_ledger_is_a_chain(
    client, name, versions
):
    qualities = random.Random(0).sample(range(1, 1000), 50)
    versions(*qualities)

    with ThreadPoolExecutor(50) as pool:
        list(pool.map(lambda version: compete(client, name, version), range(1, 51)))

    entries = check_chain(client, name)
    assert qualities[entries[-1].version - 1] == max(qualities)
    made = [qualities[entry.version - 1] for entry in entries]
    assert made == sorted(made)  # nobody was replaced by a worse one, however short its reign


PROMOTER = """
import sys
sys.path[:0] = [{root!r}, {here!r}]
from test_promotion import compete
from tasks.mlflow_client import mlflow_client
with mlflow_client() as client:
    print("ready", flush=True)
    for line in sys.stdin:
        compete(client, {name!r}, int(line))
        print(line.strip(), flush=True)
"""


@pytest.mark.slow  # four processes that import MLflow
def test_promoters_that_are_killed_anywhere_leave_a_chain_and_the_best_of_the_others(
    client, name, versions
):
    rng = random.Random(1)
    qualities = rng.sample(range(1, 1000), 24)
    versions(*qualities)
    code = PROMOTER.format(root=str(ROOT), here=str(Path(__file__).parent), name=name)
    started = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        for _ in range(4)
    ]
    for process in started:
        assert process.stdout.readline() == "ready\n"
    for place, process in enumerate(started):
        own = range(place * 6 + 1, place * 6 + 7)
        process.stdin.write("".join(f"{version}\n" for version in own))
        process.stdin.close()
    killed = started[:2]
    for process in killed:
        time.sleep(rng.uniform(0.05, 0.4))
        os.kill(process.pid, signal.SIGKILL)
    for process in started:
        process.wait(120)

    best = max((qualities[v - 1], v) for v in range(13, 25))
    entries = check_chain(client, name)
    champion = qualities[entries[-1].version - 1]
    assert champion >= best[0]  # one that was killed may have been the champion by then
    made = [qualities[entry.version - 1] for entry in entries]
    assert made == sorted(made)
    assert [p.returncode for p in started[2:]] == [0, 0]


def test_a_promoter_killed_before_it_moved_the_alias_is_helped_by_the_next(client, name, versions):
    versions(1, 2)
    ledger_of(name).append([], action="promote", version=2, replaces=None)

    assert under_alias(client, name, CHAMPION) is None
    assert reigning(client, name).version == 2
    assert [entry.version for entry in history(client, name)] == [2]
    assert under_alias(client, name, CHAMPION).version == 2


def test_a_champion_of_before_the_ledger_is_its_first_entry(client, name, versions):
    versions(1, 2)
    client.set_registered_model_alias(name, CHAMPION, "1")

    promote(client, name, 2, lambda found: found.version == 1, "better")

    assert [(e.action, e.version, e.replaces) for e in history(client, name)] == [
        ("adopt", 1, None),
        ("promote", 2, 1),
    ]


def test_nothing_changes_if_the_champion_is_not_the_measured_one(client, name, versions):
    versions(1, 2)
    promote(client, name, 1, lambda found: found is None, "first")

    with pytest.raises(BrokenPromise, match="got version 1, expected the one that was measured"):
        promote(client, name, 2, lambda found: found is None, "first")

    assert [entry.version for entry in history(client, name)] == [1]


def test_promoting_the_champion_again_changes_nothing(client, name, versions):
    versions(1)
    promote(client, name, 1, anybody, "first")

    assert promote(client, name, 1, anybody, "again") is None
    assert len(history(client, name)) == 1


def test_a_former_champion_comes_back_by_rollback_alone(client, name, versions):
    versions(1, 2)
    promote(client, name, 1, anybody, "first")
    promote(client, name, 2, anybody, "better")

    with pytest.raises(ModelError, match="version 1 was champion before"):
        promote(client, name, 1, anybody, "again")
    back = roll_back(client, name, "broke production")

    assert (back.action, back.version, back.replaces) == ("roll back", 1, 2)
    assert under_alias(client, name, CHAMPION).version == 1
    assert [entry.reason for entry in history(client, name)][-1] == "broke production"


@pytest.mark.parametrize(("goal", "says"), [(2, "never champion"), (1, "the champion now")])
def test_there_is_no_rollback_to_what_never_was_or_is(client, name, versions, goal, says):
    versions(1, 2)
    promote(client, name, 1, anybody, "first")

    with pytest.raises(ModelError, match=says):
        roll_back(client, name, "why", goal)


def test_there_is_no_rollback_from_the_first_champion(client, name, versions):
    versions(1)
    promote(client, name, 1, anybody, "first")

    with pytest.raises(ModelError, match="no champion before"):
        roll_back(client, name, "why")


def test_a_past_that_somebody_changed_is_noticed(client, name, versions):
    versions(1, 2)
    promote(client, name, 1, anybody, "first")
    promote(client, name, 2, anybody, "better")
    ledger, ground = ledger_of(name), open_ground(store_uri())
    first = ledger._name(0)
    changed = json.loads(ground.read(first)) | {"reason": "never happened"}
    ground.write(first, json.dumps(changed).encode())

    with pytest.raises(BrokenPromise, match=r"entry 1: .* somebody changed the past"):
        ledger.entries()


def test_models_with_like_names_have_ledgers_of_their_own(store):
    names = {ledger_of(name)._name(0) for name in ("a b", "a_b", "a.b", "é", "è")}

    assert len(names) == 5
