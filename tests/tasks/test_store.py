"""What the store promises, on a local folder and on a real S3 server."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from uuid import uuid4

import pytest

from hardening.errors import ConfigError, DigestError
from tasks.folder import STALE
from tasks.store import Artifact, Store, open_ground, open_store

KEY = "a" * 64


@pytest.fixture(params=["file", "s3"])
def store(request, tmp_path) -> Store:
    if request.param == "file":
        return open_store((tmp_path / "a store").as_uri())
    request.getfixturevalue("s3")
    return open_store(f"s3://tests/{uuid4().hex}")


def ruin(store: Store, name: str, data: bytes) -> None:
    """Overwrite something in the store behind its back."""
    store._ground.write(name, data)


def blob(artifact: Artifact) -> str:
    return f"blobs/{artifact.sha256[:2]}/{artifact.sha256}"


@pytest.mark.parametrize("data", [b"", b"x", os.urandom(3 << 20)], ids=len)
def test_what_is_put_is_got(store, data):
    artifact = store.put(data)
    assert store.get(artifact) == data
    assert artifact.size == len(data)
    assert artifact.uri == f"{store.uri}/{blob(artifact)}"
    assert store.put(data) == artifact


def test_an_unknown_artifact_is_an_error_that_names_it(store):
    lost = Artifact(uri="", sha256="0" * 64, size=3)
    with pytest.raises(DigestError, match=r"0{64}: is missing"):
        store.get(lost)


@pytest.mark.parametrize("damage", [b"wrong", b"", b"much longer than what was put"])
def test_damaged_bytes_are_never_returned_and_the_next_put_heals_them(store, damage):
    artifact = store.put(b"right")
    store.record(KEY, {"out": artifact}, {})
    ruin(store, blob(artifact), damage)
    with pytest.raises(DigestError, match=artifact.sha256):
        store.get(artifact)
    assert store.lookup(KEY) is None
    store.put(b"right")
    assert store.get(artifact) == b"right"
    assert store.lookup(KEY) == {"out": artifact}


def test_a_put_heals_damage_that_nobody_has_read(tmp_path):
    store = open_store((tmp_path / "store").as_uri())
    artifact = store.put(b"right")
    (tmp_path / "store" / blob(artifact)).write_bytes(b"wrong")
    store.put(b"right")
    assert store.get(artifact) == b"right"


def test_a_recorded_step_is_found_by_a_store_opened_later(store):
    outputs = {"model": store.put(b"m"), "log": store.put(b"")}
    assert store.lookup(KEY) is None
    store.record(KEY, outputs, {"step": "train", "lr": 0.1})
    assert open_store(store.uri).lookup(KEY) == outputs


def test_a_store_that_was_moved_still_knows_its_steps(tmp_path):
    store = open_store((tmp_path / "old").as_uri())
    store.record(KEY, {"out": store.put(b"data")}, {})
    (tmp_path / "old").rename(tmp_path / "new")
    moved = open_store((tmp_path / "new").as_uri())
    found = moved.lookup(KEY)
    assert found is not None
    assert moved.get(found["out"]) == b"data"
    assert found["out"].uri.startswith(moved.uri)


def test_a_truncated_manifest_is_a_miss_at_every_length(tmp_path):
    store = open_store((tmp_path / "store").as_uri())
    store.record(KEY, {"out": store.put(b"data")}, {"step": "train"})
    path = tmp_path / "store" / "steps" / f"{KEY}.json"
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        assert store.lookup(KEY) is None
    path.write_bytes(whole)
    assert store.lookup(KEY) is not None


def test_the_manifest_of_another_step_is_a_miss(store):
    store.record(KEY, {"out": store.put(b"data")}, {})
    text = store._ground.read(f"steps/{KEY}.json")
    ruin(store, f"steps/{'b' * 64}.json", text)
    assert store.lookup("b" * 64) is None


def test_a_lost_output_makes_its_step_a_miss(store):
    kept, lost = store.put(b"kept"), store.put(b"lost")
    store.record(KEY, {"kept": kept, "lost": lost}, {})
    store.record("other", {"kept": kept}, {})
    store._ground.delete(blob(lost))
    assert store.lookup(KEY) is None
    assert store.lookup("other") == {"kept": kept}


def test_facts_that_json_cannot_hold_leave_no_manifest(store):
    with pytest.raises(ValueError, match="JSON"):
        store.record(KEY, {}, {"loss": float("nan")})
    assert store.lookup(KEY) is None


@pytest.mark.parametrize("key", ["", "../x", "a/b", ".hidden", "a\n", "x" * 300])
def test_a_key_cannot_be_a_path(store, key):
    with pytest.raises(ValueError, match="step key"):
        store.lookup(key)
    with pytest.raises(ValueError, match="step key"):
        store.save_checkpoint(key, b"")


def test_the_last_checkpoint_is_the_one_that_is_loaded(store):
    assert store.load_checkpoint(KEY) is None
    store.save_checkpoint(KEY, b"epoch 1")
    store.save_checkpoint(KEY, b"epoch 2, longer")
    assert store.load_checkpoint(KEY) == b"epoch 2, longer"
    store.drop_checkpoint(KEY)
    store.drop_checkpoint(KEY)
    assert store.load_checkpoint(KEY) is None


def test_of_many_that_create_one_name_exactly_one_succeeds(store):
    ground = open_ground(store.uri)

    for turn in range(5):
        name = f"ledger/m/{turn}.json"
        with ThreadPoolExecutor(8) as pool:
            texts = [f"writer {index}".encode() for index in range(8)]
            won = list(pool.map(partial(ground.create, name), texts))
        assert sum(won) == 1
        assert ground.read(name) == texts[won.index(True)]
        assert not ground.create(name, b"too late")


def test_a_torn_or_altered_checkpoint_counts_as_none(store):
    store.save_checkpoint(KEY, b"weights")
    whole = store._ground.read(f"checkpoints/{KEY}")
    torn = [whole[:length] for length in range(len(whole))]
    for damaged in [*torn, whole + b"x", whole[:-1] + b"X", b"X" + whole[1:]]:
        ruin(store, f"checkpoints/{KEY}", damaged)
        assert store.load_checkpoint(KEY) is None


WRITER = """
import os, sys
from tasks.store import open_store
store = open_store(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
for number in range(int(sys.argv[2])):
    data = number.to_bytes(4, "big") * 5000
    artifact = store.put(data)
    store.record(f"step-{number}", {"out": artifact}, {})
    assert store.get(artifact) == data
"""


def writer(store: Store, count: int) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, store.uri, str(count)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def test_two_processes_writing_the_same_are_both_right(store):
    writers = [writer(store, 40) for _ in range(2)]
    for process in writers:
        assert process.stdout.readline() == "ready\n"
    for process in writers:
        process.stdin.write("\n")
        process.stdin.flush()
    for process in writers:
        process.communicate(timeout=60)
        assert process.returncode == 0
    for number in range(40):
        found = store.lookup(f"step-{number}")
        assert store.get(found["out"]) == number.to_bytes(4, "big") * 5000


def test_a_writer_killed_anywhere_leaves_only_whole_things(tmp_path):
    store = open_store((tmp_path / "store").as_uri())
    for _ in range(5):
        process = writer(store, 100_000)
        process.stdout.readline()
        process.stdin.write("\n")
        process.stdin.flush()
        steps = tmp_path / "store" / "steps"
        before = len(list(steps.glob("*")))
        while len(list(steps.glob("*"))) < before + 3:
            assert process.poll() is None
        process.kill()
        process.communicate()
    for path in steps.glob("*"):
        found = store.lookup(path.stem)
        assert found is not None, path
        store.get(found["out"])
    for path in (tmp_path / "store" / "blobs").glob("*/*"):
        store.get(Artifact(uri="", sha256=path.name, size=path.stat().st_size))


def test_leftovers_of_killed_writers_are_swept_and_those_of_living_ones_are_not(tmp_path):
    store = open_store(tmp_path.as_uri())
    old, new = tmp_path / "tmp" / "old", tmp_path / "tmp" / "new"
    old.touch()
    new.touch()
    os.utime(old, (old.stat().st_mtime - STALE - 60,) * 2)
    open_store(store.uri)
    assert [path.name for path in (tmp_path / "tmp").iterdir()] == ["new"]


@pytest.mark.parametrize("below", ["file/store", "file"])
def test_a_folder_that_cannot_be_written_is_named(tmp_path, below):
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=f"{tmp_path / below}: cannot be written"):
        open_store((tmp_path / below).as_uri())


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="no folder that even root cannot write")
def test_a_folder_that_refuses_even_root_is_named():
    with pytest.raises(ConfigError, match="/proc/temper-store: cannot be written"):
        open_store("file:///proc/temper-store")


@pytest.mark.parametrize(
    "uri", ["", "store", "./store", "file://store", "file://host/x", "https://x/y", "s3://", "s3:x"]
)
def test_an_address_of_no_known_kind_is_refused(uri):
    with pytest.raises(ConfigError, match="expected"):
        open_store(uri)
