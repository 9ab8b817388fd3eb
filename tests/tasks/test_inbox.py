"""Files that arrive under a prefix: each becomes a version once, whatever it is."""

import os
import time
from pathlib import Path
from threading import Barrier, Thread
from uuid import uuid4

import pytest

from hardening.errors import ConfigError
from hardening.log import Silent
from tasks.inbox import SOURCE, register_arrivals
from tasks.mlflow_client import mlflow_client
from tasks.registry import download
from tasks.versions import every


class Inbox:
    """Where a test's files arrive: a folder, or a prefix in S3."""

    def __init__(self, address, put):
        self.address, self.put = address, put
        self.name = f"m{uuid4().hex[:8]}"

    def register(self):
        return self.look().registered

    def look(self):
        return register_arrivals(self.address, self.name, Silent())

    def versions(self):
        with mlflow_client() as client:
            return every(client, self.name)


@pytest.fixture(scope="module")
def office(tmp_path_factory):
    """The home of all of them: MLflow takes seconds to make its tables."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture(params=["folder", "s3"])
def inbox(request, office, tmp_path, monkeypatch):
    monkeypatch.setenv("TEMPER_HOME", str(office))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    if request.param == "s3":
        client, prefix = request.getfixturevalue("s3"), uuid4().hex
        return Inbox(
            f"s3://tests/{prefix}",
            lambda key, data: client.put_object(Bucket="tests", Key=f"{prefix}/{key}", Body=data),
        )
    folder = tmp_path / "arrive here"
    folder.mkdir()

    def put(key, data):
        path = Path(folder, key)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)

    return Inbox(str(folder), put)


def test_what_arrives_is_registered_once_the_oldest_first(inbox):
    assert inbox.register() == []
    inbox.put("z.onnx", b"first")
    time.sleep(1.1)  # S3 tells whole seconds
    inbox.put("team/a.onnx", b"second")
    inbox.put("notes.txt", b"no model")

    assert inbox.register() == [1, 2]
    assert inbox.register() == []
    assert download(f"models:/{inbox.name}/1") == b"first"
    assert download(f"models:/{inbox.name}/2") == b"second"
    assert inbox.versions()[1].tags[SOURCE].endswith("/team/a.onnx")

    inbox.put("z.onnx", b"changed")
    assert inbox.register() == [3]


def test_the_same_bytes_elsewhere_or_written_again_are_no_new_version(inbox):
    inbox.put("a.onnx", b"same")
    assert inbox.register() == [1]
    inbox.put("b.onnx", b"same")
    inbox.put("a.onnx", b"same")
    assert inbox.register() == []


def test_of_two_who_look_at_once_one_registers(inbox):
    inbox.put("a.onnx", b"once")
    inbox.versions()  # MLflow has its tables then
    together, made = Barrier(2), []

    def look():
        together.wait()
        made.extend(inbox.register())

    threads = [Thread(target=look) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert made == [1]
    assert len(inbox.versions()) == 1


@pytest.mark.parametrize("inbox", ["folder"], indirect=True)  # there 2 GiB cost nothing
def test_what_cannot_be_an_onnx_file_is_left_aside_unread(inbox, capsys):
    with Path(inbox.address, "huge.onnx").open("wb") as file:
        os.truncate(file.fileno(), (2 << 30) + 1)
    assert inbox.register() == []
    assert "huge.onnx: 2147483649 B, more than an ONNX file can have" in capsys.readouterr().err


def test_a_name_is_only_a_name(inbox, monkeypatch, capsys):
    """Who may put a file there may not read the environment, nor stop the others."""
    monkeypatch.setenv("TEMPER_TESTS_SECRET", "hunter2")
    for key in ("${TEMPER_TESTS_SECRET}.onnx", "price$UNSET.onnx", "~.onnx", "a b%41.onnx"):
        inbox.put(key, key.encode())
    assert inbox.look() == ([1, 2, 3, 4], [])
    assert {download(f"models:/{inbox.name}/{n}").decode() for n in (1, 2, 3, 4)} == {
        "${TEMPER_TESTS_SECRET}.onnx",
        "price$UNSET.onnx",
        "~.onnx",
        "a b%41.onnx",
    }
    said = "".join(str(found.tags) for found in inbox.versions()) + "".join(capsys.readouterr())
    assert "hunter2" not in said


@pytest.mark.parametrize("inbox", ["folder"], indirect=True)
def test_a_link_is_not_followed(inbox, tmp_path, capsys):
    (tmp_path / "secret").write_text("of this machine")
    Path(inbox.address, "x.onnx").symlink_to(tmp_path / "secret")
    assert inbox.look() == ([], [])
    assert "x.onnx: a link, expected a file" in capsys.readouterr().err


def test_a_file_that_cannot_be_read_stops_no_other(inbox, monkeypatch):
    inbox.put("a.onnx", b"unreadable")
    inbox.put("b.onnx", b"good")
    real = Path.read_bytes

    def read(path):
        data = real(path)
        if data == b"unreadable":
            raise PermissionError(13, "Permission denied", str(path))
        return data

    monkeypatch.setattr(Path, "read_bytes", read)  # the tests may run as root
    registered, [why] = inbox.look()
    assert registered == [1]
    assert why.endswith("a.onnx: cannot be read (Permission denied)")
    assert download(f"models:/{inbox.name}/1") == b"good"


@pytest.mark.parametrize("address", ["nowhere", "file:///nowhere", "https://host/models"])
def test_an_address_that_is_no_place_for_files_is_refused(address, tmp_path, monkeypatch):
    monkeypatch.setenv("TEMPER_HOME", str(tmp_path))
    with pytest.raises(ConfigError, match=r"intake\.source: got .*, expected a folder"):
        register_arrivals(address, "m", Silent())
