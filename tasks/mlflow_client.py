"""Reaching MLflow: which one, without noise, and with bounded patience."""

import os
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

from hardening.errors import ServiceError
from tasks.settings import home

if TYPE_CHECKING:
    from mlflow import MlflowClient

TRACKING = "MLFLOW_TRACKING_URI"
"""Address of the MLflow to use instead of the embedded one."""

DEFAULTS = {
    # MLflow's own patience is 247 s for each call to a server that is down.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",  # seconds
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    "DO_NOT_TRACK": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_LOGGING_LEVEL": "ERROR",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
"""Set where the environment says nothing, before MLflow is imported: it reads some only then."""


def tracking_uri() -> str:
    """The address of MLflow: the environment's, else a database in our home folder."""
    return os.environ.get(TRACKING) or f"sqlite:///{home() / 'mlflow' / 'mlflow.db'}"


def shown(uri: str) -> str:
    """`uri` without a password, fit for logs, errors and reports."""
    return re.sub(r"(?<=://)[^/\s]*@", "", uri)


def is_server(uri: str) -> bool:
    """Whether `uri` is a tracking server, that keeps artifacts itself, and not a database."""
    return uri.startswith(("http://", "https://"))


def probe() -> None:
    """Make sure that MLflow answers; takes at most 10 s.

    Raises:
        ServiceError: It does not; the text names the address.
    """
    uri = tracking_uri()
    if is_server(uri):
        _probe_server(uri)
    elif uri.startswith("sqlite:///"):
        _probe_database(uri)


@contextmanager
def mlflow_client() -> Iterator["MlflowClient"]:
    """A client of the MLflow in use, which becomes the one of this process.

    Raises:
        ServiceError: MLflow does not answer, or refuses what the body of the `with` asks of it.
    """
    probe()
    _set_defaults()
    import mlflow  # noqa: PLC0415 - two seconds that only those who log should pay
    from mlflow.exceptions import MlflowException  # noqa: PLC0415
    from requests import RequestException  # noqa: PLC0415

    uri = tracking_uri()
    mlflow.set_tracking_uri(uri)
    try:
        yield mlflow.MlflowClient(uri)
    except (MlflowException, RequestException) as error:
        raise ServiceError(f"MLflow at {shown(uri)}: {_first_line(error)}") from error


def experiment_id(client: "MlflowClient", name: str) -> str:
    """The id of the experiment, made when there is none.

    Without a server its artifacts are in the home folder; MLflow would take the working folder.
    """
    from mlflow.exceptions import MlflowException  # noqa: PLC0415

    uri = tracking_uri()
    place = None if is_server(uri) else (home() / "mlflow" / "artifacts").as_uri()
    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return client.create_experiment(name, artifact_location=place)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        # Another process was faster.
        found = client.get_experiment_by_name(name)
    if found is None or found.lifecycle_stage != "active":
        raise ServiceError(
            f"MLflow at {shown(uri)}: experiment {name!r} is deleted, expected it restored "
            f"or another name"
        )
    return str(found.experiment_id)


def _set_defaults() -> None:
    for name, value in DEFAULTS.items():
        os.environ.setdefault(name, value)


def _probe_server(uri: str) -> None:
    _set_defaults()
    from mlflow.exceptions import MlflowException  # noqa: PLC0415
    from mlflow.utils.credentials import get_default_host_creds  # noqa: PLC0415
    from mlflow.utils.rest_utils import http_request  # noqa: PLC0415

    try:
        # MLflow's own way to ask, so that its credentials and certificates are used.
        answer = http_request(  # type: ignore[no-untyped-call]
            get_default_host_creds(uri),  # type: ignore[no-untyped-call]
            "/health",
            "GET",
            max_retries=2,
            backoff_factor=0.5,
            backoff_jitter=0,
            timeout=3,
            raise_on_status=False,
        )
    except MlflowException as error:
        raise ServiceError(
            f"MLflow at {shown(uri)}: does not answer, expected a running server "
            f"({_cause(error)}); see {TRACKING}"
        ) from error
    if answer.status_code != 200:
        raise ServiceError(
            f"MLflow at {shown(uri)}: got status {answer.status_code} from /health, expected 200; "
            f"see {TRACKING}"
        )


def _probe_database(uri: str) -> None:
    """MLflow itself would try for 100 s to open a database that cannot be opened."""
    from sqlalchemy import make_url  # noqa: PLC0415

    path = make_url(uri).database or ""
    try:
        os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
        with closing(sqlite3.connect(path, timeout=5)) as database:
            database.execute("BEGIN IMMEDIATE")
            database.execute("PRAGMA schema_version")
            database.rollback()
    except (OSError, sqlite3.Error) as error:
        raise ServiceError(f"MLflow at {uri}: {error}, expected a writable database") from error


def _first_line(error: Exception) -> str:
    """The first line of MLflow's text, which may hold a whole stack trace and an address."""
    return shown((str(error).splitlines() or [type(error).__name__])[0])


def _cause(error: Exception) -> str:
    """The innermost reason, which MLflow wraps three times."""
    reason = re.search(
        r"\[Errno -?\d+\] [\w ]+|timed out|timeout=|SSL\w*|certificate[\w ]+", str(error)
    )
    return reason.group().rstrip("=") if reason else type(error.__cause__ or error).__name__
