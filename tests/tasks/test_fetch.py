"""Whatever is fetched is what was promised, is fetched once, and stays where it belongs."""

import hashlib
import os
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from uuid import uuid4

import pytest

from hardening.errors import ConfigError, DataError, DigestError, ServiceError
from hardening.log import Silent
from tasks.digest import content_sha256, file_sha256, tree_sha256
from tasks.fetch import expand, fetch_file

DATA = b"images and labels" * 100_000
SHA256 = hashlib.sha256(DATA).hexdigest()


class Counting(Silent):
    """A log that remembers its progress bars: what, total, and how much was counted."""

    def __init__(self):
        self.bars = []

    @contextmanager
    def progress(self, what, total, unit):
        counted = []

        def advance(done=1, note=""):
            counted.append(done)

        yield advance
        self.bars.append((what, total, unit, sum(counted)))


@pytest.fixture
def cache(tmp_path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def file(tmp_path) -> Path:
    path = tmp_path / "some data.npz"
    path.write_bytes(DATA)
    return path


@pytest.fixture
def remote(s3):
    """Puts an object below a fresh prefix; returns the prefix."""
    prefix = uuid4().hex

    def put(key: str, data: bytes) -> str:
        s3.put_object(Bucket="tests", Key=f"{prefix}/{key}", Body=data)
        return f"s3://tests/{prefix}/{key}"

    put.prefix = f"s3://tests/{prefix}/"
    return put


def kept(cache: Path) -> list[Path]:
    return [path for path in cache.rglob("*") if path.is_file()] if cache.exists() else []


def test_a_local_file_is_used_where_it_lies(file, cache, monkeypatch):
    monkeypatch.setenv("HOME", str(file.parent))
    monkeypatch.setenv("SOME_DATA", str(file.parent))
    spellings = [str(file), file.as_uri(), f"~/{file.name}", f"$SOME_DATA/{file.name}"]
    for uri in [*spellings, f"${{SOME_DATA}}/{file.name}"]:
        assert fetch_file(uri, SHA256, cache, Silent()) == file
        assert fetch_file(uri, "", cache, Silent()) == file
    assert not cache.exists()


def test_a_folder_is_returned_as_it_is(file, cache):
    folder = file.parent
    assert fetch_file(str(folder), tree_sha256(folder), cache, Silent()) == folder
    with pytest.raises(DigestError, match="expected 0000"):
        fetch_file(str(folder), "0" * 64, cache, Silent())


def test_an_unset_variable_is_named(cache, monkeypatch):
    monkeypatch.delenv("TEMPER_NOWHERE", raising=False)
    with pytest.raises(ConfigError, match=r"\$TEMPER_NOWHERE/x: .* TEMPER_NOWHERE is not set"):
        fetch_file("$TEMPER_NOWHERE/x", "", cache, Silent())


def test_a_lone_dollar_and_an_inner_tilde_stay(monkeypatch):
    assert expand("/a$/b~/c$") == "/a$/b~/c$"


def test_a_missing_file_is_named(cache, tmp_path):
    with pytest.raises(ConfigError, match=f"{tmp_path}/gone.npz: no such file"):
        fetch_file(f"{tmp_path}/gone.npz", "", cache, Silent())


def test_a_wrong_digest_says_what_was_got_and_what_was_expected(file, cache):
    with pytest.raises(DigestError, match=f"got sha256 {SHA256}, expected {'0' * 64}"):
        fetch_file(str(file), "0" * 64, cache, Silent())


@pytest.mark.parametrize("sha256", ["abc", SHA256[:-1], f"sha256:{SHA256}", "g" * 64])
def test_what_cannot_be_a_digest_is_refused_before_anything_is_read(cache, sha256):
    with pytest.raises(ConfigError, match="64 hexadecimal digits"):
        fetch_file("/no/such/file", sha256, cache, Silent())


@pytest.mark.parametrize(
    "uri", ["http://127.0.0.1:9/x", "ftp://host/x", "gs://b/k", "file://host/x", "s3:///key"]
)
def test_an_address_of_no_known_kind_is_refused(cache, uri):
    with pytest.raises(ConfigError, match="expected"):
        fetch_file(uri, SHA256, cache, Silent())


def test_an_object_is_downloaded_once_with_progress(remote, cache):
    uri, log = remote("data.npz", DATA), Counting()
    for sha256 in ("", "", SHA256, SHA256.upper()):
        path = fetch_file(uri, sha256, cache, log)
        assert path.read_bytes() == DATA
        assert path.name == "data.npz"
    # Once as it is, and once as the file with that digest.
    assert log.bars == [(f"download {uri}", len(DATA), "B", len(DATA))] * 2


def test_a_new_version_of_an_object_is_downloaded(remote, cache):
    uri = remote("data.npz", b"old")
    assert fetch_file(uri, "", cache, Silent()).read_bytes() == b"old"
    remote("data.npz", b"new")
    assert fetch_file(uri, "", cache, Silent()).read_bytes() == b"new"


@pytest.mark.parametrize("damage", [b"", b"x" * len(DATA)])
def test_a_damaged_cache_is_downloaded_again(remote, cache, damage):
    uri = remote("data.npz", DATA)
    fetch_file(uri, "", cache, Silent()).write_bytes(damage)
    assert fetch_file(uri, "", cache, Silent()).read_bytes() == DATA


def test_a_download_with_the_wrong_digest_leaves_nothing_behind(remote, cache):
    uri = remote("data.npz", DATA)
    with pytest.raises(DigestError, match=SHA256):
        fetch_file(uri, "0" * 64, cache, Silent())
    assert kept(cache) == []


def test_a_missing_object_and_an_empty_prefix_are_named(remote, cache):
    for uri in (f"{remote.prefix}gone.npz", f"{remote.prefix}gone/"):
        with pytest.raises(ConfigError, match=f"{uri}: no "):
            fetch_file(uri, "", cache, Silent())


def test_a_dead_server_is_named_and_leaves_nothing(remote, cache, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(ServiceError, match=r"http://127\.0\.0\.1:9"):
        fetch_file(f"{remote.prefix}data.npz", "", cache, Silent())
    assert kept(cache) == []


def test_a_prefix_becomes_a_folder_and_is_downloaded_once(remote, cache, tmp_path):
    names = [f"train/{label}/{number}.png" for label in "ab" for number in range(5)]
    for name in names:
        remote(name, name.encode())
        path = tmp_path / "same" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    log, digest = Counting(), tree_sha256(tmp_path / "same")
    for _ in range(2):
        folder = fetch_file(remote.prefix, digest, cache, log)
        assert tree_sha256(folder) == digest
    total = sum(map(len, names))
    assert log.bars == [(f"download {remote.prefix}", total, "B", total)]
    with pytest.raises(DigestError):
        fetch_file(remote.prefix, "0" * 64, cache, Silent())


@contextmanager
def hostile_s3(key: str):
    """A server whose only bucket lists one object under a key of its choice."""
    listing = (
        "<ListBucketResult><IsTruncated>false</IsTruncated><Contents>"
        f"<Key>prefix/{key}</Key><Size>1</Size><ETag>x</ETag>"
        "<LastModified>2026-01-01T00:00:00.000Z</LastModified></Contents></ListBucketResult>"
    )

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            body = listing.encode() if "list-type" in self.path else b"!"
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize("key", ["a/../../../escaped", "..", "a//b", "/a", "a/./b", "a\\..\\b"])
def test_a_key_that_would_leave_its_folder_is_refused(s3_variables, cache, monkeypatch, key):
    with hostile_s3(key) as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        with pytest.raises(DataError, match="expected one that is a path below it"):
            fetch_file("s3://tests/prefix/", "", cache, Silent())
    assert kept(cache) == []


def test_a_harmless_key_of_the_same_server_is_not_refused(s3_variables, cache, monkeypatch):
    with hostile_s3("a/..b/c..") as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        folder = fetch_file("s3://tests/prefix/", "", cache, Silent())
    assert (folder / "a/..b/c..").read_bytes() == b"!"


def test_https_without_a_digest_is_refused_without_a_connection(cache):
    with pytest.raises(ConfigError, match="has no sha256"):
        fetch_file("https://127.0.0.1:9/data.npz?token=hush", "", cache, Silent())


def test_a_cache_that_cannot_be_written_is_named(remote, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=f"{tmp_path}/file"):
        fetch_file(remote("data.npz", DATA), "", tmp_path / "file", Silent())


def test_the_digest_of_a_tree_is_of_names_and_contents_alone(tmp_path):
    def tree(name: str, **files: bytes) -> Path:
        folder = tmp_path / name
        for path, data in files.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(data)
        return folder

    one = content_sha256(tree("one", **{"a/x": b"1", "b": b"2"}))
    assert content_sha256(tree("two", **{"b": b"2", "a/x": b"1"})) == one
    others = [
        {"a/x": b"1", "b": b"3"},
        {"a/y": b"1", "b": b"2"},
        {"a/x": b"1"},
        {"a": b"", "b": b""},
    ]
    digests = {content_sha256(tree(f"other{n}", **files)) for n, files in enumerate(others)}
    assert len(digests | {one}) == 5


def test_a_tree_follows_links_but_not_in_circles(tmp_path):
    plain, linked = tmp_path / "plain", tmp_path / "linked"
    (plain / "a").mkdir(parents=True)
    (plain / "a" / "x").write_bytes(b"1")
    linked.mkdir()
    (linked / "a").symlink_to(plain / "a")
    assert tree_sha256(linked) == tree_sha256(plain)
    (plain / "a" / "up").symlink_to(plain)
    with pytest.raises(DataError, match="links to a folder above it"):
        tree_sha256(plain)


def test_only_regular_files_have_a_digest(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path / "gone", Path("/dev/zero")):
        with pytest.raises(DataError, match="expected a regular file"):
            file_sha256(path)
    with pytest.raises(DataError, match="pipe"):
        tree_sha256(tmp_path)


@pytest.mark.parametrize("value", ["20G", "-1", "0"])
def test_a_size_limit_that_is_none_names_its_variable(remote, cache, monkeypatch, value):
    monkeypatch.setenv("TEMPER_MAX_DOWNLOAD", value)
    with pytest.raises(ConfigError, match=f"TEMPER_MAX_DOWNLOAD: got '{value}', expected a posi"):
        fetch_file(remote("data.npz", DATA), "", cache, Silent())
