"""Many promoters at once, some of them killed: the best version that passes is champion."""

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
from tasks import champion
from tasks.champion import follow, look, reigning, since
from tasks.promotion import promote, roll_back
from tasks.versions import CHAMPION, get

ROOT = Path(__file__).parents[2]


def anybody(found):
    return True


def killed(*arguments):
    raise KeyboardInterrupt


def numbers(client, name):
    return [entry.version for entry in look(client, name).past]


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
    """The chain as it lies there: `look` repairs nothing."""
    reign = look(client, name)
    entries = reign.past
    assert [entry.number for entry in entries] == list(range(len(entries)))
    assert [e.replaces for e in entries[1:]] == [e.version for e in entries[:-1]]
    promoted = [entry.version for entry in entries if entry.action == "promote"]
    assert len(promoted) == len({*promoted})
    assert reign.followed
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
    follow(client, name)  # as the next run does: the last to promote may be one that was killed
    entries = check_chain(client, name)
    champion = qualities[entries[-1].version - 1]
    assert champion >= best[0]  # one that was killed may have been the champion by then
    made = [qualities[entry.version - 1] for entry in entries]
    assert made == sorted(made)
    assert [p.returncode for p in started[2:]] == [0, 0]


def test_a_promoter_killed_before_it_moved_the_alias_is_helped_by_the_next(
    client, name, crowned, monkeypatch
):
    crowned(2)
    client.create_model_version(name, "file:///nowhere")
    with monkeypatch.context() as patch:
        patch.setattr(champion, "_write", killed)
        with pytest.raises(KeyboardInterrupt):
            promote(client, name, 3, anybody, "better")
    left = look(client, name)
    assert ([e.version for e in left.past], left.alias) == ([1, 2, 3], 2)
    assert reigning(client, name).version == 3

    # Even one that has nothing to promote.
    assert promote(client, name, 3, anybody, "again") is None
    assert look(client, name).alias == 3
    assert get(client, name, 3).tags["temper.replaces"] == "version 2"


def test_a_champion_of_before_the_ledger_is_its_first_entry(client, name, versions):
    versions(1, 2)
    client.set_registered_model_alias(name, CHAMPION, "1")
    assert since(client, name) == get(client, name, 1).created  # so that it ages

    promote(client, name, 2, lambda found: found.version == 1, "better")

    assert [(e.action, e.version, e.replaces) for e in look(client, name).past] == [
        ("adopt", 1, None),
        ("promote", 2, 1),
    ]


def test_nothing_changes_if_the_champion_is_not_the_measured_one(client, name, versions):
    versions(1, 2)
    promote(client, name, 1, lambda found: found is None, "first")

    with pytest.raises(BrokenPromise, match="got version 1, expected the one that was measured"):
        promote(client, name, 2, lambda found: found is None, "first")

    assert numbers(client, name) == [1]


def test_promoting_the_champion_again_changes_nothing(client, name, crowned):
    crowned(1)

    assert promote(client, name, 1, anybody, "again") is None
    assert numbers(client, name) == [1]


def test_a_former_champion_comes_back_by_rollback_alone(client, name, crowned):
    crowned(2)

    with pytest.raises(ModelError, match="version 1 was champion before"):
        promote(client, name, 1, anybody, "again")
    back = roll_back(client, name, "broke production")

    assert (back.action, back.version, back.replaces) == ("roll back", 1, 2)
    assert look(client, name).alias == 1
    assert look(client, name).past[-1].reason == "broke production"


def test_rolling_back_twice_goes_back_twice(client, name, crowned):
    crowned(3)
    assert roll_back(client, name, "3 is bad").version == 2
    assert roll_back(client, name, "2 is bad, too").version == 1
    with pytest.raises(ModelError, match="no champion before"):
        roll_back(client, name, "why")

    # What was rolled back by mistake counts again.
    assert roll_back(client, name, "3 was good", 3).version == 3
    assert roll_back(client, name, "it was not").version == 1


@pytest.mark.parametrize(("goal", "says"), [(2, "never champion"), (1, "the champion now")])
def test_there_is_no_rollback_to_what_never_was_or_is(client, name, versions, goal, says):
    versions(1, 2)
    promote(client, name, 1, anybody, "first")

    with pytest.raises(ModelError, match=says):
        roll_back(client, name, "why", goal)


def test_there_is_no_rollback_from_the_first_champion(client, name, crowned):
    crowned(1)

    with pytest.raises(ModelError, match="no champion before"):
        roll_back(client, name, "why")


@pytest.mark.parametrize(
    ("goal", "after"),
    [
        (3, [("adopt", 3, 2)]),
        (None, [("adopt", 3, 2), ("roll back", 2, 3)]),
        (1, [("adopt", 3, 2), ("roll back", 1, 3)]),
    ],
    ids=["kept", "undone", "neither"],
)
def test_rollback_records_what_was_done_by_hand(client, name, crowned, goal, after):
    crowned(2)
    client.create_model_version(name, "file:///nowhere")
    client.set_registered_model_alias(name, CHAMPION, "3")

    roll_back(client, name, "an emergency", goal)

    assert [(e.action, e.version, e.replaces) for e in check_chain(client, name)[2:]] == after
    assert reigning(client, name).version == after[-1][1]
