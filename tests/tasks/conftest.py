"""A real S3 server on loopback, started once, and the environment that leads to it."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import NamedTuple
from uuid import uuid4

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

ACCESS, SECRET = "temper-tests", "only-for-tests"


class S3Server(NamedTuple):
    url: str
    port: int


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


def until(condition: Callable[[], object], seconds: float = 30.0) -> None:
    """Wait for a condition, or fail."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.05)


def raw_client(url: str):
    return boto3.client(
        "s3",
        endpoint_url=url,
        aws_access_key_id=ACCESS,
        aws_secret_access_key=SECRET,
        region_name="us-east-1",
        config=Config(
            retries={"total_max_attempts": 1},
            connect_timeout=1,
            read_timeout=10,
            s3={"addressing_style": "path"},
        ),
    )


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory) -> Iterator[S3Server]:
    with _seaweed(tmp_path_factory.mktemp("weed")) as server:
        yield server


@pytest.fixture(scope="session")
def seaweed() -> Callable[[Path], AbstractContextManager[S3Server]]:
    """Starts a server of a test's own."""
    return _seaweed


@contextmanager
def _seaweed(root: Path) -> Iterator[S3Server]:
    """A SeaweedFS with its files in `root`, and the bucket `tests`."""
    names = ("s3", "s3.grpc", "master", "master.grpc", "volume", "volume.grpc", "filer")
    names = (*names, "filer.grpc", "admin")
    ports = dict(zip(names, free_ports(len(names)), strict=True))
    keys = {"accessKey": ACCESS, "secretKey": SECRET}
    actions = ["Admin", "Read", "Write", "List", "Tagging"]
    identity = {"name": "tests", "credentials": [keys], "actions": actions}
    (root / "s3.json").write_text(json.dumps({"identities": [identity]}))
    (root / "data").mkdir(exist_ok=True)
    command = [
        str(Path(sys.executable).parent / "weed"),
        "mini",
        f"-dir={root / 'data'}",
        *("-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-master.telemetry=false"),
        *("-webdav=false", "-admin.ui=false", "-s3.iam=false"),
        *("-s3.port.iceberg=0", "-s3.port.lance=0"),
        f"-s3.config={root / 's3.json'}",
        f"-s3.localSocket={root / 's3.sock'}",
        f"-filer.localSocket={root / 'filer.sock'}",
        *(
            f"-{n.replace('.grpc', '')}.port{'.grpc' * ('.grpc' in n)}={p}"
            for n, p in ports.items()
        ),
    ]
    url = f"http://127.0.0.1:{ports['s3']}"
    with (root / "weed.log").open("wb") as log:
        environment = {"PATH": os.environ["PATH"], "HOME": str(root), "GOMEMLIMIT": "300MiB"}
        server = subprocess.Popen(command, cwd=root, env=environment, stdout=log, stderr=log)
    client = raw_client(url)

    def ready() -> bool:
        assert server.poll() is None, (root / "weed.log").read_text()[-2000:]
        try:
            client.create_bucket(Bucket=f"probe-{uuid4().hex}")
            client.put_object(Bucket="tests", Key="ready", Body=b"1")
            return client.get_object(Bucket="tests", Key="ready")["Body"].read() == b"1"
        except (BotoCoreError, ClientError):
            return False

    try:
        until(ready, 60)
        yield S3Server(url, ports["s3"])
    finally:
        server.terminate()
        try:
            server.wait(5)
        except subprocess.TimeoutExpired:  # one without room on its disk stays
            server.kill()
            server.wait()


@pytest.fixture
def s3(s3_server: S3Server, s3_variables: None, monkeypatch):
    """A client of the server; the environment leads there, too."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server.url)
    return raw_client(s3_server.url)


@pytest.fixture
def s3_variables(monkeypatch, tmp_path) -> None:
    """Credentials for the tests' server, nothing of this machine's own, and no waiting."""
    monkeypatch.setattr("tasks.s3_failures.PAUSES", (0.0, 0.0))
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
