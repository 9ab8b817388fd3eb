"""The environment variables that Temper reads, in one place."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, NamedTuple

from hardening.errors import ConfigError

HOME = "TEMPER_HOME"
"""Folder of everything Temper keeps on this machine; default `./.temper`."""

STORE = "TEMPER_STORE"
"""Address of the artifact store, `file:///folder` or `s3://bucket/prefix`."""

SERVER_LINGER = "TEMPER_SERVER_LINGER"
"""Seconds that our own Prefect server outlives its last user; default 20."""

WORKERS = "TEMPER_WORKERS"
"""Steps at a time; default 1, and 64 on a cluster, which has a queue of its own."""

RUNNER = "TEMPER_RUNNER"
"""Where steps run: `threads` of this process (default), or the address of a cluster."""

STEP_GPUS = "TEMPER_STEP_GPUS"
"""GPUs that a step on a cluster asks for, perhaps a fraction of one; default 0."""

TRAIN_PROCESSES = "TEMPER_TRAIN_PROCESSES"
"""Processes of one machine that train a model together, one for each of its GPUs; default 1."""

MAX_DOWNLOAD = "TEMPER_MAX_DOWNLOAD"
"""Largest file or folder that is downloaded, bytes; default 20 GiB."""

OPEN_SECONDS = "TEMPER_OPEN_SECONDS"
"""Longest time that opening a foreign ONNX file may take, s; default 120."""

OPEN_MEMORY = "TEMPER_OPEN_MEMORY"
"""Most memory that opening a foreign ONNX file may take, bytes; default 4 GiB."""

LEASE = "TEMPER_LEASE"
"""Seconds after which the work of a killed process is taken over by another; default 120."""

SLOT = "TEMPER_SLOT"
"""Name of the place that a training holds, a concurrency limit of Prefect's; default none."""

PREFECT_API = "PREFECT_API_URL"
"""Address of the Prefect API to use instead of a server of our own."""

WORK_POOL = "temper"
"""Name of the Prefect work pool that the deployments use."""

WEBHOOK_SECRET = "TEMPER_WEBHOOK_SECRET"  # noqa: S105  the name of it
"""Secret with which MLflow signs its webhooks."""

QUIET = {
    "DO_NOT_TRACK": "true",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_CLOUD_ENABLE_ORCHESTRATION_TELEMETRY": "false",
    "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
    "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "false",
    "PREFECT_LOGGING_LEVEL": "CRITICAL",  # what fails is told by the command, once
    "PREFECT_LOGGING_ROOT_LEVEL": "CRITICAL",
    "PREFECT_LOGGING_COLORS": "false",
    "RAY_USAGE_STATS_ENABLED": "0",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_LOGGING_LEVEL": "ERROR",
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
}
"""Defaults that keep Prefect, Ray and MLflow calm and at home; what the user has set wins."""


class Cluster(NamedTuple):
    """A cluster whose workers run the steps; `address` is what its engine calls it."""

    engine: Literal["dask", "ray"]
    address: str


def home() -> Path:
    """The folder of everything kept on this machine, absolute; it need not exist yet."""
    return Path(os.environ.get(HOME) or ".temper").expanduser().absolute()


def store_uri() -> str:
    """The address of the artifact store."""
    return os.environ.get(STORE) or (home() / "store").as_uri()


def workers() -> int:
    """How many steps run at a time. One uses all cores already; more of them need more memory.

    Raises:
        ConfigError: The environment says something else than a positive number.
    """
    return _positive(WORKERS, 1 if cluster() is None else 64)


def cluster() -> Cluster | None:
    """The cluster that steps run on; None when they run in threads of this process.

    Raises:
        ConfigError: The environment says neither `threads` nor the address of a cluster.
    """
    text = os.environ.get(RUNNER) or "threads"
    if text == "threads":
        return None
    found = re.fullmatch(r"(dask|dask\+tls|ray)://([^/\s:]+|\[[0-9a-f:]+\]):(\d{1,5})", text)
    if not found or not 0 < int(found[3]) < 1 << 16:
        raise ConfigError(
            f"{RUNNER}: got {text!r}, expected threads, dask://HOST:PORT, dask+tls://HOST:PORT or "
            "ray://HOST:PORT"
        )
    scheme, place = found[1], f"{found[2]}:{found[3]}"
    if scheme == "ray":
        return Cluster("ray", f"ray://{place}")
    return Cluster("dask", f"{'tls' if scheme == 'dask+tls' else 'tcp'}://{place}")


def step_gpus() -> float:
    """GPUs that a step on a cluster asks for.

    Raises:
        ConfigError: The environment says something else than a number that is not negative.
    """
    text = os.environ.get(STEP_GPUS) or "0"
    if not re.fullmatch(r"\d+(\.\d+)?", text):
        raise ConfigError(f"{STEP_GPUS}: got {text!r}, expected a number, 0 or more")
    return float(text)


def train_processes() -> int:
    """How many processes train a model together.

    Raises:
        ConfigError: The environment says something else than a positive number.
    """
    return _positive(TRAIN_PROCESSES, 1)


def open_limits() -> tuple[int, int]:
    """What opening a foreign ONNX file may take: seconds, and bytes of memory.

    Raises:
        ConfigError: The environment says something else than positive numbers.
    """
    return _positive(OPEN_SECONDS, 120), _positive(OPEN_MEMORY, 4 << 30)


def max_download() -> int:
    """How large a file or folder that is downloaded may be, bytes.

    Raises:
        ConfigError: The environment says something else than a positive number.
    """
    return _positive(MAX_DOWNLOAD, 20 << 30)


def webhook_secret() -> str:
    """The secret with which MLflow signs its webhooks; there is no default.

    Raises:
        ConfigError: There is none, or one that can be guessed.
    """
    secret = os.environ.get(WEBHOOK_SECRET, "")
    if len(secret) < 16:
        raise ConfigError(
            f"{WEBHOOK_SECRET}: got {len(secret)} characters, expected at least 16, the secret "
            "of the webhook in MLflow"
        )
    return secret


def lease() -> int:
    """How long a claim outlives its holder, seconds.

    Raises:
        ConfigError: The environment says something else than a positive number.
    """
    return _positive(LEASE, 120)


@contextmanager
def environment(values: dict[str, str], *, replace: bool) -> Iterator[None]:
    """Set variables inside the block; what the user has set wins unless `replace`."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update({n: v for n, v in values.items() if replace or before[n] is None})
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _positive(name: str, default: int) -> int:
    text = os.environ.get(name) or str(default)
    if not text.isdecimal() or int(text) < 1:
        raise ConfigError(f"{name}: got {text!r}, expected a positive number")
    return int(text)
