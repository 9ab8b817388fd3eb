"""Failures of an S3 server are one line that says what and where, in bounded time."""

import os
import socket
import time
from uuid import uuid4

import pytest

from hardening.errors import ConfigError, ServiceError
from tasks.s3 import Bucket, client, parse
from tasks.store import open_store


def refusal(uri: str) -> str:
    """The error of opening a store there, which is one line without a secret."""
    with pytest.raises(ServiceError) as caught:
        open_store(uri)
    text = str(caught.value)
    assert "\n" not in text
    assert os.environ["AWS_SECRET_ACCESS_KEY"] not in text
    return text


@pytest.mark.parametrize(
    ("uri", "parts"),
    [
        ("s3://bucket/a/key", ("bucket", "a/key")),
        ("s3://bucket", ("bucket", "")),
        ("s3://bucket/folder/", ("bucket", "folder/")),
    ],
)
def test_an_address_is_a_bucket_and_a_key(uri, parts):
    assert parse(uri) == parts


@pytest.mark.parametrize("uri", ["", "s3:/bucket", "s3:///key", "bucket/key", "S3x://bucket/key"])
def test_what_is_not_an_address_is_refused(uri):
    with pytest.raises(ConfigError, match="expected s3://bucket/key"):
        parse(uri)


def test_a_missing_bucket_is_named_and_not_made(s3, s3_server):
    text = refusal("s3://no-such-bucket/prefix")
    assert "s3://no-such-bucket/prefix" in text
    assert s3_server.url in text
    assert "NoSuchBucket" in text
    assert text.endswith("make the bucket, or correct its name")
    assert "no-such-bucket" not in [b["Name"] for b in s3.list_buckets()["Buckets"]]


@pytest.mark.parametrize("variable", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"])
def test_wrong_credentials_are_refused_by_name_of_the_address(s3, s3_server, monkeypatch, variable):
    monkeypatch.setenv(variable, "somebody-else")
    text = refusal("s3://tests")
    assert s3_server.url in text
    assert "AccessKey" in text or "Signature" in text
    assert "correct AWS_" in text


def test_missing_credentials_are_an_error_that_says_so(s3, monkeypatch):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(ServiceError, match="credentials"):
        open_store("s3://tests")


def test_a_server_that_is_not_there_is_named_in_bounded_time(s3_variables, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
    started = time.monotonic()
    assert f"http://127.0.0.1:{port}" in refusal("s3://tests")
    assert time.monotonic() - started < 15


def test_a_password_in_the_address_is_never_shown(s3_variables, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://me:hush-hush@127.0.0.1:{port}")
    assert "hush-hush" not in refusal("s3://tests")


def test_an_address_that_is_none_names_the_variable(s3_variables, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "localhost-9000")
    with pytest.raises(ConfigError, match="AWS_ENDPOINT_URL: got 'localhost-9000'"):
        client()


def test_what_is_not_there_is_told_from_what_fails(s3):
    bucket = Bucket("s3://tests/" + uuid4().hex)
    assert bucket.read("nothing") is None
    assert bucket.size("nothing") is None
    assert bucket.head("nothing") is None
    assert list(bucket.list()) == []
    with pytest.raises(ServiceError, match="NoSuchBucket"):
        Bucket("s3://not-a-bucket").read("nothing")


def test_a_prefix_is_a_folder_of_its_own(s3):
    first, second = uuid4().hex, uuid4().hex
    Bucket(f"s3://tests/{first}/").write("a/b", b"1")
    Bucket(f"s3://tests/{first}{second}").write("a", b"22")
    found = list(Bucket(f"s3://tests/{first}").list())
    assert [(entry.key, entry.size) for entry in found] == [("a/b", 1)]
