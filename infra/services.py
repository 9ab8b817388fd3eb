"""The services of the stack: what to run, with which variables, and how each says it is ready."""

import json
import os
import shutil
import signal
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from infra import postgres
from infra.keeping import Kept, write_private
from tasks.settings import QUIET, WORK_POOL, home

ROOT = Path(__file__).parents[1]

RUNS = 2
"""Runs that the worker has at a time; trainings have a limit of their own, see `infra.setup`."""


class Service(NamedTuple):
    """One process of the stack; `ready` raises until it is."""

    name: str
    command: list[str]
    environment: dict[str, str]
    ready: Callable[[], None]
    user: str | None = None
    stop: signal.Signals = signal.SIGTERM


def database(kept: Kept) -> Service:
    """PostgreSQL with the databases of MLflow and Prefect."""
    port, password = kept.ports["postgres"], kept.secrets.postgres
    return Service(
        "postgres",
        postgres.command(kept.folder / "postgres", port),
        {"PATH": os.environ["PATH"]},
        lambda: postgres.make_databases(port, password, ["mlflow", "prefect"]),
        user=postgres.owner(),
        stop=signal.SIGINT,  # with SIGTERM it waits for its clients to go first
    )


def storage(kept: Kept) -> Service:
    """SeaweedFS with the bucket `temper`."""
    folder = kept.folder / "seaweedfs"
    folder.mkdir(mode=0o700, exist_ok=True)
    (folder / "data").mkdir(exist_ok=True)
    keys = {"accessKey": kept.secrets.s3_access, "secretKey": kept.secrets.s3_secret}
    actions = ["Admin", "Read", "Write", "List", "Tagging"]
    identity = {"name": "temper", "credentials": [keys], "actions": actions}
    write_private(folder / "s3.json", json.dumps({"identities": [identity]}))
    weed = Path(sys.executable).with_name("weed")
    command = [
        str(weed if weed.exists() else shutil.which("weed") or weed),
        *("mini", f"-dir={folder / 'data'}", f"-s3.config={folder / 's3.json'}"),
        # Loopback only, nothing told to anybody, and none of the other protocols.
        *("-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-master.telemetry=false", "-webdav=false"),
        *("-admin.ui=false", "-s3.iam=false", "-s3.port.iceberg=0", "-s3.port.lance=0"),
        *(f"-s3.localSocket={folder / 's3.sock'}", f"-filer.localSocket={folder / 'filer.sock'}"),
        *(f"-{n}.port={kept.ports[n]}" for n in ("s3", "master", "volume", "filer", "admin")),
        *(f"-{n}.port.grpc={kept.ports[f'{n}.grpc']}" for n in ("s3", "master", "volume", "filer")),
    ]
    variables = {"PATH": os.environ["PATH"], "HOME": str(folder), "GOMEMLIMIT": "300MiB"}
    return Service("seaweedfs", command, variables, lambda: _bucket(kept))


def tracking(kept: Kept) -> Service:
    """MLflow on PostgreSQL, its artifacts in S3, its webhooks allowed to come to loopback."""
    variables = {
        "MLFLOW_BACKEND_STORE_URI": postgres.url(
            kept.ports["postgres"], kept.secrets.postgres, "mlflow"
        ),
        "MLFLOW_ARTIFACTS_DESTINATION": "s3://temper/mlflow",
        "MLFLOW_S3_ENDPOINT_URL": kept.url("s3"),
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # seven processes that nobody here needs
        "MLFLOW_WEBHOOK_ALLOWED_SCHEMES": "http,https",
        "MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS": "true",
        "MLFLOW_WEBHOOK_CACHE_TTL": "1",  # seconds until a new webhook is heard of
        "MLFLOW_WEBHOOK_REQUEST_MAX_RETRIES": "5",  # half a minute
        "MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY": kept.secrets.fernet,
        **kept.s3_environment(),
    }
    command = ["mlflow", "server", "--host", "127.0.0.1", "--workers", "1"]
    command += ["--port", str(kept.ports["mlflow"])]
    return _ours("mlflow", command, variables, f"{kept.url('mlflow')}/health")


def orchestration(kept: Kept) -> Service:
    """Prefect's server on PostgreSQL, behind a password."""
    port = str(kept.ports["prefect"])
    variables = {
        "PREFECT_HOME": str(kept.folder / "prefect"),
        "PREFECT_API_DATABASE_CONNECTION_URL": postgres.url(
            kept.ports["postgres"], kept.secrets.postgres, "prefect", driver="asyncpg"
        ),
        "PREFECT_SERVER_API_AUTH_STRING": f"temper:{kept.secrets.prefect}",
        "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": kept.url("prefect"),
        "PREFECT_UI_API_URL": f"{kept.url('prefect')}/api",
        # After a minute Prefect would forget which runs went silent: too soon after an outage.
        "PREFECT_SERVER_EVENTS_EXPIRED_BUCKET_BUFFER": "P7D",
    }
    command = ["prefect", "server", "start", "--host", "127.0.0.1", "--port", port]
    return _ours("prefect", command, variables, f"{kept.url('prefect')}/api/health")


def worker(kept: Kept) -> Service:
    """One worker; its runs find everything as a user does who sources env.sh."""
    port = str(kept.ports["worker"])
    variables = {
        **kept.user_environment(),
        "PREFECT_HOME": str(kept.folder / "worker"),
        "PREFECT_LOGGING_LEVEL": "INFO",
        "PREFECT_WORKER_QUERY_SECONDS": "2",
        "PREFECT_WORKER_WEBSERVER_HOST": "127.0.0.1",
        "PREFECT_WORKER_WEBSERVER_PORT": port,
        "TEMPER_HOME": str(home()),
        "TEMPER_ROOT": str(ROOT),
    }
    command = ["prefect", "worker", "start", "--pool", WORK_POOL, "--type", "process"]
    command += ["--name", "stack", "--limit", str(RUNS), "--with-healthcheck"]
    return _ours("worker", command, variables, f"{kept.url('worker')}/health")


def receiver(kept: Kept) -> Service:
    """The receiver of MLflow's webhooks."""
    command = ["flows", "receive", "--port", str(kept.ports["receiver"])]
    variables = {**kept.user_environment(), "PREFECT_HOME": str(kept.folder / "receiver")}
    return _ours("receiver", command, variables, f"{kept.url('receiver')}/health")


def python_environment() -> dict[str, str]:
    """Variables for a program of ours; those of the user's other servers do not leak into it."""
    foreign = ("PREFECT_", "MLFLOW_", "AWS_", "TEMPER_")
    own = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    return {**own, **QUIET, "PREFECT_LOGGING_LEVEL": "WARNING", "PYTHONUNBUFFERED": "1"}


def _ours(name: str, command: list[str], variables: dict[str, str], health: str) -> Service:
    return Service(
        name,
        [sys.executable, "-m", *command],
        {**python_environment(), **variables},
        lambda: _ask(health),
    )


def _ask(url: str) -> None:
    urllib.request.urlopen(url, timeout=2).close()  # noqa: S310  our own http address


def _bucket(kept: Kept) -> None:
    import boto3  # noqa: PLC0415  half a second that `status` need not pay
    from botocore.config import Config  # noqa: PLC0415

    once = Config(retries={"total_max_attempts": 1}, connect_timeout=1, read_timeout=5)
    client = boto3.Session().client(
        "s3",
        endpoint_url=kept.url("s3"),
        aws_access_key_id=kept.secrets.s3_access,
        aws_secret_access_key=kept.secrets.s3_secret,
        region_name="us-east-1",
        config=once.merge(Config(s3={"addressing_style": "path"})),
    )
    if "temper" not in {bucket["Name"] for bucket in client.list_buckets()["Buckets"]}:
        client.create_bucket(Bucket="temper")
    # Buckets are listed long before objects can be written and read.
    client.put_object(Bucket="temper", Key="ready", Body=b"1")
    client.get_object(Bucket="temper", Key="ready")["Body"].read()
