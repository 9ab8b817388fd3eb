"""An S3 server that fails: bounded attempts, one line that says what to do, nothing half-visible.

Between us and the real server stands a proxy that spoils what it is told to.
"""

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread
from typing import NamedTuple
from uuid import uuid4

import boto3
import pytest

from hardening.errors import ConfigError, DataError, ServiceError
from hardening.log import Silent
from tasks.fetch import fetch_file
from tasks.step import step
from tasks.store import Store, open_store

DATA = os.urandom(300_000)


class Fault(NamedTuple):
    """What happens to a request of that method whose path holds that part."""

    method: str
    part: str
    kind: str


class Proxy(ThreadingHTTPServer):
    """Passes requests on to `port`; `faults` are used up one by one, `always` never is."""

    def __init__(self, port: int) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.port, self.asked = port, []
        self.faults: list[Fault] = []
        self.always: Fault | None = None
        self.over = Event()
        self.url = f"http://127.0.0.1:{self.server_address[1]}"

    def fault(self, method: str, path: str) -> str:
        self.asked.append((method, path))
        for fault in [*self.faults, *filter(None, [self.always])]:
            if fault.method == method and fault.part in path:
                if fault in self.faults:
                    self.faults.remove(fault)
                return fault.kind
        return ""

    def count(self, method: str, part: str) -> int:
        return sum(m == method and part in path for m, path in self.asked)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self) -> None:
        kind = self.server.fault(self.command, self.path)
        length = int(self.headers.get("content-length", 0))
        self.close_connection = True
        if kind == "hang":
            self.server.over.wait(20)
        elif kind.isdecimal():
            self.rfile.read(length // 2)
            self.send_response(int(kind))
            self.send_header("content-length", "0")
            self.send_header("connection", "close")
            self.end_headers()
        elif kind == "lost answer":
            self.passed_on(self.rfile.read(length)).fetched()
        elif kind == "cut upload":
            self.passed_on(self.rfile.read(length // 2))
        else:
            self.pass_back(kind, *self.passed_on(self.rfile.read(length)).fetched())

    def passed_on(self, body: bytes) -> "Upstream":
        upstream = Upstream("127.0.0.1", self.server.port)
        upstream.putrequest(self.command, self.path, True, True)
        for name, value in self.headers.items():
            if name.lower() != "expect":
                upstream.putheader(name, value)
        upstream.endheaders(body)
        return upstream

    def pass_back(self, kind: str, status: int, headers: dict[str, str], body: bytes) -> None:
        if kind == "grown":
            body = body + body
        self.send_response_only(status)
        for name, value in headers.items():
            if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                self.send_header(name, value)
        length = headers.get("Content-Length") if self.command == "HEAD" else len(body)
        self.send_header("content-length", str(length or 0))
        self.send_header("connection", "close")
        self.end_headers()
        self.wfile.write(body if kind not in ("cut", "stall") else body[: len(body) // 2])
        self.wfile.flush()
        if kind == "stall":
            self.server.over.wait(20)

    def log_message(self, *_arguments: object) -> None:
        pass

    do_GET = do_PUT = do_HEAD = do_DELETE = answer  # noqa: N815  the names that it looks for


class Upstream(HTTPConnection):
    def fetched(self) -> tuple[int, dict[str, str], bytes]:
        with self.getresponse() as answer:
            return answer.status, dict(answer.headers), answer.read()


class Quiet(Proxy):
    def handle_error(self, request, client_address) -> None:
        """A client that went away is what these tests are about."""


@pytest.fixture
def proxy(request, s3, s3_server, monkeypatch) -> Iterator[Proxy]:
    parameters = request.node.callspec.params if hasattr(request.node, "callspec") else {}
    if parameters.get("kind") in ("hang", "stall"):
        monkeypatch.setattr("tasks.s3.READ_TIMEOUT", 0.5)
    server = Quiet(s3_server.port)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
    yield server
    server.over.set()
    server.shutdown()
    thread.join(10)
    server.server_close()


@pytest.fixture
def store(proxy) -> Store:
    return open_store(f"s3://tests/{uuid4().hex}")


def keys(s3: "boto3.client", store: Store) -> set[str]:
    """What the real server has in the store, beside the probe."""
    prefix = store.uri.removeprefix("s3://tests/")
    found = s3.list_objects_v2(Bucket="tests", Prefix=prefix).get("Contents", [])
    return {entry["Key"].removeprefix(f"{prefix}/") for entry in found} - {"probe"}


@contextmanager
def one_line(proxy: Proxy, *words: str) -> Iterator[None]:
    with pytest.raises(ServiceError) as caught:
        yield
    text = str(caught.value)
    assert "\n" not in text
    for word in ("s3://tests", proxy.url, *words):
        assert word in text


UPLOADS = {"500": "free disk", "507": "no room left", "cut upload": "log", "hang": "hangs"}


@pytest.mark.parametrize("kind", UPLOADS)
def test_an_upload_that_fails_twice_is_tried_again_and_whole(s3, proxy, store, kind):
    proxy.faults = [Fault("PUT", "blobs", kind)] * 2
    artifact = store.put(DATA)
    assert proxy.count("PUT", "blobs") == 3
    assert store.get(artifact) == DATA


@pytest.mark.parametrize(("kind", "cure"), UPLOADS.items())
def test_an_upload_that_always_fails_is_one_line_and_leaves_no_key(s3, proxy, store, kind, cure):
    proxy.always = Fault("PUT", "blobs", kind)
    started = time.monotonic()
    with one_line(proxy, "blobs/", "cannot be written", "3 attempts", cure):
        store.put(DATA)
    assert proxy.count("PUT", "blobs") == 3
    assert time.monotonic() - started < 5
    assert keys(s3, store) == set()


@step
def twice(run, /, *, tag):
    return {"first": tag.encode(), "second": DATA}


@pytest.mark.parametrize("part", ["blobs", "steps"])
def test_a_step_whose_results_cannot_be_kept_is_not_done(s3, proxy, monkeypatch, part):
    uri, tag = f"s3://tests/{uuid4().hex}", uuid4().hex
    monkeypatch.setenv("TEMPER_STORE", uri)
    proxy.always = Fault("PUT", part, "500")
    with one_line(proxy, f"{uri}/{part}/"):
        twice._run("twice", (), {"tag": tag})
    store, key = open_store(uri), twice.key((), {"tag": tag})
    assert store.lookup(key) is None
    assert not [name for name in keys(s3, store) if name.startswith("steps")]

    proxy.always = None
    made = twice._run("twice", (), {"tag": tag})
    assert store.lookup(key) == made
    assert store.get(made["second"]) == DATA


def test_an_entry_that_was_made_although_the_server_failed_is_ours(s3, proxy, store):
    proxy.faults = [Fault("PUT", "ledger", "lost answer")]
    assert store._ground.create("ledger/0", b"ours")
    assert not store._ground.create("ledger/0", b"theirs")
    assert store._ground.read("ledger/0") == b"ours"


@pytest.mark.parametrize("kind", ["cut", "stall", "500"])
def test_a_download_that_breaks_off_twice_is_tried_again(proxy, store, tmp_path, kind):
    artifact = store.put(DATA)
    proxy.faults = [Fault("GET", "blobs", kind)] * 2
    assert store.get(artifact) == DATA
    proxy.faults = [Fault("GET", "blobs", kind)] * 2
    path = fetch_file(artifact.uri, artifact.sha256, tmp_path / "cache", Silent())
    assert path.read_bytes() == DATA


@pytest.mark.parametrize(
    ("kind", "folder"), [("cut", False), ("stall", False), ("cut", True), ("grown", True)]
)
def test_a_download_that_always_fails_leaves_nothing_in_the_cache(
    proxy, store, tmp_path, kind, folder
):
    artifact = store.put(DATA)
    proxy.always = Fault("GET", artifact.sha256, kind)
    uri = f"{store.uri}/blobs/" if folder else artifact.uri
    with one_line(proxy, artifact.sha256, "expected" if kind == "grown" else "3 attempts"):
        fetch_file(uri, "", tmp_path / "cache", Silent())
    assert proxy.count("GET", artifact.sha256) == (1 if kind == "grown" else 3)
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_listing_that_breaks_off_is_begun_again(proxy, store):
    store.put(DATA)
    proxy.faults = [Fault("GET", "list-type", "cut")] * 2
    assert [entry.size for entry in store._ground.list() if entry.size] == [len(DATA)]


@pytest.mark.parametrize("folder", [False, True], ids=["object", "folder"])
def test_what_is_above_the_limit_is_refused_before_it_is_downloaded(
    proxy, store, tmp_path, monkeypatch, folder
):
    artifact = store.put(DATA)
    uri = f"{store.uri}/blobs/" if folder else artifact.uri
    monkeypatch.setenv("TEMPER_MAX_DOWNLOAD", str(len(DATA) - 1))
    with pytest.raises(DataError, match=r"got 300000 B or more.*TEMPER_MAX_DOWNLOAD"):
        fetch_file(uri, "", tmp_path / "cache", Silent())
    assert proxy.count("GET", artifact.sha256) == 0


class Web(BaseHTTPRequestHandler):
    def answer(self) -> None:
        self.send_response(200)
        self.end_headers()
        with suppress(BrokenPipeError):
            self.wfile.write(b"<html>Welcome!</html>" * (self.command != "HEAD"))

    def log_message(self, *_arguments: object) -> None:
        pass

    do_GET = do_PUT = do_HEAD = answer  # noqa: N815  the names that it looks for


def fetch(uri: str) -> Path:
    return fetch_file(uri, "", Path("never-made"), Silent())


@pytest.mark.parametrize("action", [open_store, fetch])
def test_a_server_of_another_kind_is_told_as_that(s3_variables, monkeypatch, action):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Web)
    Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_address[1]}")
    with pytest.raises(ServiceError, match=r"this is no S3 server: correct AWS_ENDPOINT_URL$"):
        action("s3://tests/object")
    server.shutdown()
    server.server_close()


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    """A file system of its own; `small_disk` is a folder with 48 MiB of room, on tmpfs."""
    folder = tmp_path / "small"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=48m", "tmpfs", str(folder)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("may not mount a file system here")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_full_disk_of_ours_leaves_neither_half_a_blob_nor_half_a_download(
    s3, proxy, store, small_disk
):
    (small_disk / "ballast").write_bytes(bytes(44 << 20))
    data = os.urandom(6 << 20)
    local = open_store((small_disk / "store").as_uri())
    with pytest.raises(ServiceError, match=r"blobs/.*: cannot be written \(No space left on dev"):
        local.put(data)
    assert not [path for path in (small_disk / "store").rglob("*") if path.is_file()]

    artifact = store.put(data)
    with pytest.raises(ConfigError, match=r"small/cache cannot be written \(No space left on dev"):
        fetch_file(artifact.uri, "", small_disk / "cache", Silent())
    assert list((small_disk / "cache").iterdir()) == []


def fill(store: Store, kept: list) -> None:
    for _ in range(48):
        data = os.urandom(2 << 20)
        kept.append((store.put(data), data))


@pytest.mark.slow  # a second server
def test_a_server_whose_disk_is_full_keeps_what_it_took_and_shows_no_half(
    small_disk, seaweed, s3_variables, monkeypatch
):
    with seaweed(small_disk) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
        store, kept = open_store("s3://tests/store"), []
        with pytest.raises(ServiceError, match="free disk") as caught:
            fill(store, kept)
        assert "\n" not in str(caught.value)
        assert server.url in str(caught.value)
        assert kept
        assert all(store.get(artifact) == data for artifact, data in kept)
        listed = {entry.key for entry in store._ground.list()} - {"probe"}
        assert listed == {a.uri.removeprefix("s3://tests/store/") for a, _ in kept}
