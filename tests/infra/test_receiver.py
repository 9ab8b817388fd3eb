"""Deliveries that are not MLflow's, or not new, are refused, and nobody hears of them."""

import base64
import hashlib
import hmac
import http.client
import json
import signal
import socket
import subprocess
import sys
import time
import uuid

import pytest
from mlflow.webhooks.delivery import _generate_hmac_signature
from prefect.events import Event

from hardening.errors import ConfigError
from tasks import receiver as module
from tasks import webhook

SECRET = "0123456789abcdef-of-the-tests"
CREATED = {
    "entity": "model_version",
    "action": "created",
    "timestamp": "2026-01-01T00:00:00+00:00",
    "data": {"name": "digits", "version": "7", "source": "models:/m-1", "tags": {}},
}


def body_of(**changes) -> bytes:
    return json.dumps({**CREATED, **changes}).encode()


def signed(body: bytes, delivery: str | None = None, seconds: float = 0, secret=SECRET):
    """The headers that MLflow sends."""
    delivery, now = delivery or str(uuid.uuid4()), str(int(time.time() + seconds))
    content = f"{delivery}.{now}.".encode() + body
    signature = base64.b64encode(hmac.digest(secret.encode(), content, hashlib.sha256)).decode()
    return {
        "Content-Type": "application/json",
        "X-MLflow-Delivery-Id": delivery,
        "X-MLflow-Timestamp": now,
        "X-MLflow-Signature": f"v1,{signature}",
    }


def status(port: int, method: str, path: str, body=None, headers=None) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request(method, path, body, headers or {})
    answer = connection.getresponse()
    answer.read()
    connection.close()
    return answer.status


@pytest.fixture
def post(receiver, events, monkeypatch):
    """Delivers a body with headers; the status. Prefect is at `events`."""

    def send(body: bytes, headers: dict[str, str]) -> int:
        return status(receiver, "POST", "/mlflow", body, headers)

    monkeypatch.setenv("PREFECT_API_URL", f"http://127.0.0.1:{events.port}/api")
    return send


def test_signatures_are_those_of_mlflow():
    body = body_of()
    ours = signed(body, "an-id")
    theirs = _generate_hmac_signature(SECRET, "an-id", ours["X-MLflow-Timestamp"], body.decode())
    assert ours["X-MLflow-Signature"] == theirs


def test_a_version_announced_five_times_is_one_event(post, events):
    statuses = [post(body_of(), signed(body_of())) for _ in range(5)]
    assert statuses == [202] * 5
    assert {path for path, _ in events.told} == {"/api/events"}
    heard = [Event.model_validate(event) for _, [event] in events.told]
    assert len({event.id for event in heard}) == 1
    assert heard[0].event == "temper.model-version.created"
    assert heard[0].resource.id == "mlflow.model-version.digits.7"
    assert heard[0].payload == {"name": "digits", "version": 7}


def test_other_versions_and_names_are_other_events(post, events):
    for name, version in (("a.1", 1), ("a", 11), ("a", 1)):
        body = body_of(data={"name": name, "version": version})
        assert post(body, signed(body)) == 202
    assert len({event["id"] for _, [event] in events.told}) == 3


@pytest.mark.parametrize(
    ("why", "body", "changes", "status"),
    [
        ("signed with another secret", body_of(), lambda: signed(body_of(), secret="x" * 20), 401),
        ("signed for another body", body_of(), lambda: signed(body_of(action="deleted")), 401),
        ("no signature", body_of(), {"X-MLflow-Signature": ""}, 401),
        ("another scheme", body_of(), {"X-MLflow-Signature": "v2,AAAA"}, 401),
        ("a signature that is not ASCII", body_of(), {"X-MLflow-Signature": "v1,\xe4"}, 401),
        ("old", body_of(), lambda: signed(body_of(), seconds=-301), 401),
        ("from the future", body_of(), lambda: signed(body_of(), seconds=86_400), 401),
        ("its id changed", body_of(), {"X-MLflow-Delivery-Id": "another"}, 401),
        ("no id", body_of(), {"X-MLflow-Delivery-Id": ""}, 400),
        ("an endless id", body_of(), {"X-MLflow-Delivery-Id": "x" * 129}, 400),
        ("no time", body_of(), {"X-MLflow-Timestamp": ""}, 400),
        ("a time in other digits", body_of(), {"X-MLflow-Timestamp": "\xb2\xb3"}, 400),
        ("an endless time", body_of(), {"X-MLflow-Timestamp": "1" * 5000}, 400),
        ("a form", body_of(), {"Content-Type": "application/x-www-form-urlencoded"}, 415),
        ("no JSON", b"{", {}, 400),
        ("not UTF-8", b'{"entity": "\xff"}', {}, 400),
        ("nested too deep", b"[" * 100_000, {}, 400),
        ("a list", b"[]", {}, 422),
        ("no entity", b"{}", {}, 422),
        ("no name", body_of(data={"version": 1}), {}, 422),
        ("version zero", body_of(data={"name": "a", "version": 0}), {}, 422),
        ("version NaN", body_of(data={"name": "a", "version": "x"}), {}, 422),
    ],
)
def test_is_refused_and_no_event_is_told(post, events, why, body, changes, status):
    """What is signed is signed now: a signature is old after five minutes."""
    changed = changes() if callable(changes) else changes
    assert post(body, {**signed(body), **changed}) == status
    assert events.told == []


def test_a_replay_is_refused(post, events):
    headers = signed(body_of())
    assert [post(body_of(), headers) for _ in range(3)] == [202, 409, 409]
    assert len(events.told) == 1


def test_what_is_no_new_version_is_taken_and_not_told(post, events):
    body = body_of(entity="model_version_alias", data={"alias": "champion"})
    assert post(body, signed(body)) == 200
    assert events.told == []


def test_while_prefect_is_away_mlflow_is_asked_to_come_again_with_the_same_delivery(
    post, events, monkeypatch
):
    headers = signed(body_of())
    there = f"http://127.0.0.1:{events.port}/api"
    with socket.create_server(("127.0.0.1", 0)) as closed:
        nobody = f"http://127.0.0.1:{closed.getsockname()[1]}/api"
    monkeypatch.setenv("PREFECT_API_URL", nobody)
    assert post(body_of(), headers) == 503
    monkeypatch.setenv("PREFECT_API_URL", there)
    assert post(body_of(), headers) == 202
    assert post(body_of(), headers) == 409


def raw(port: int, head: str, body: bytes = b"") -> tuple[str, float]:
    """The first line of the answer to these bytes, and the seconds until it came."""
    started = time.monotonic()
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(head.encode() + body)
        line = connection.recv(4096).decode("latin-1").splitlines()[0]
    return line, time.monotonic() - started


def test_a_body_that_is_said_to_be_too_large_is_not_waited_for(receiver, events):
    headers = {**signed(b""), "Content-Length": str(10**9)}
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    line, seconds = raw(receiver, f"POST /mlflow HTTP/1.1\r\nHost: x\r\n{lines}\r\n")
    assert " 413 " in line
    assert seconds < 2
    assert events.told == []


def test_a_body_without_a_length_is_read_up_to_the_limit_only(receiver, events):
    headers = {**signed(b""), "Transfer-Encoding": "chunked"}
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    chunk = b"%x\r\n" % (webhook.MAX_BODY + 1) + b"x" * (webhook.MAX_BODY + 1) + b"\r\n"
    line, seconds = raw(receiver, f"POST /mlflow HTTP/1.1\r\nHost: x\r\n{lines}\r\n", chunk)
    assert " 413 " in line  # and the end of the body never came
    assert seconds < 5


def test_a_sender_that_is_too_slow_is_given_up(receiver, events, monkeypatch):
    monkeypatch.setattr(module, "BODY_SECONDS", 0.3)
    headers = {**signed(b"12345"), "Content-Length": "5"}
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    line, _ = raw(receiver, f"POST /mlflow HTTP/1.1\r\nHost: x\r\n{lines}\r\n", b"12")
    assert " 408 " in line


def test_connections_that_say_nothing_do_not_keep_others_out(receiver, monkeypatch):
    monkeypatch.setattr(module, "HEAD_SECONDS", 0.5)
    address = ("127.0.0.1", receiver)
    idle = [socket.create_connection(address, timeout=10) for _ in range(module.AT_A_TIME)]
    idle[0].sendall(b"POST /mlflow HTTP/1.1\r\nHost: x\r\n")  # and the head never ends
    try:
        assert status(receiver, "GET", "/health") == 503
        assert {connection.recv(1) for connection in idle} == {b""}  # closed
        assert status(receiver, "GET", "/health") == 200
    finally:
        for connection in idle:
            connection.close()


def test_a_connection_serves_one_request_and_a_second_head_is_not_waited_for(receiver):
    with socket.create_connection(("127.0.0.1", receiver), timeout=10) as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\nGET ")
        answer = b""
        while more := connection.recv(4096):
            answer += more
    assert answer.count(b" 200 ") == 1


def test_only_so_many_deliveries_are_remembered(monkeypatch):
    monkeypatch.setattr(webhook, "REMEMBERED", 3)
    seen = webhook.Seen()
    for number in range(10):
        with seen.once(str(number), now=0):
            pass
    assert len(seen._until) == 3
    with seen.once("late", now=10_000):
        pass
    assert list(seen._until) == ["late"]


def test_it_does_not_start_without_a_secret(monkeypatch):
    monkeypatch.delenv("TEMPER_WEBHOOK_SECRET", raising=False)
    with pytest.raises(ConfigError, match="TEMPER_WEBHOOK_SECRET: got 0 characters"):
        module.serve("127.0.0.1", 0)
    monkeypatch.setenv("TEMPER_WEBHOOK_SECRET", "short")
    with pytest.raises(ConfigError, match="at least 16"):
        module.serve("127.0.0.1", 0)


def test_the_command_serves_and_ends_when_told(monkeypatch, events):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    monkeypatch.setenv("TEMPER_WEBHOOK_SECRET", SECRET)
    monkeypatch.setenv("PREFECT_API_URL", f"http://127.0.0.1:{events.port}/api")
    command = [sys.executable, "-m", "flows", "receive", "--port", str(port)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert f"listening on 127.0.0.1:{port}" in process.stderr.readline()
            assert status(port, "GET", "/health") == 200
            assert status(port, "POST", "/mlflow", body_of(), signed(b"another")) == 401
            assert "401 x-mlflow-signature" in process.stderr.readline()
            process.terminate()
            assert process.wait(15) == -signal.SIGTERM  # uvicorn ends, then raises it again
        finally:
            process.kill()
