"""The doctor's look at MLflow: the registry, the artifacts and the webhook do what we need."""

import os
import secrets
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from hardening.errors import ServiceError
from tasks.finding import Finding, well, wrong
from tasks.mlflow_client import TRACKING, is_server, mlflow_client, probe, shown, tracking_uri
from tasks.settings import PREFECT_API, WEBHOOK_SECRET, environment

if TYPE_CHECKING:
    from mlflow import MlflowClient

WEBHOOK_CURES = {
    401: f"MLflow signs with another secret: python -m infra.setup URL, with {WEBHOOK_SECRET} set",
    404: "the webhook's address is not that of a receiver: python -m infra.setup URL",
    503: f"the receiver does not reach Prefect: correct its {PREFECT_API}",
}


def examine() -> list[Finding]:
    """Read and write the registry and the artifacts, and let MLflow try its webhook."""
    uri = tracking_uri()
    try:
        if not is_server(uri):
            probe()
            return [well("MLflow", f"embedded, {uri}")]
        with mlflow_client() as client:
            client.search_registered_models(max_results=1)
            name = f"temper-doctor-{secrets.token_hex(4)}"
            client.create_registered_model(name)
            client.delete_registered_model(name)
    except ServiceError as error:
        denied = any(word in str(error) for word in ("401", "403", "authenticat", "ermission"))
        cure = (
            "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD of a user who may write"
            if denied
            else f"start it, or correct {TRACKING} (without it there is an embedded one)"
        )
        return [wrong("MLflow", str(error), cure)]
    here = well("MLflow", f"{shown(uri)}: registry read and written")
    return [here, _artifacts(), *_webhook()]


def _artifacts() -> Finding:
    from mlflow.store.artifact.artifact_repository_registry import (  # noqa: PLC0415
        get_artifact_repository,
    )

    try:
        with mlflow_client() as client, tempfile.TemporaryDirectory() as folder:
            place = client.get_experiment("0").artifact_location
            if not place.startswith(("mlflow-artifacts:", "s3:")):
                found = f"MLflow keeps artifacts in {place}, a folder of its own machine"
                cure = "start it with --artifacts-destination s3://bucket/prefix"
                return wrong("artifacts", found, cure)
            Path(folder, "probe").write_bytes(b"probe")
            repository = get_artifact_repository(f"{place}/temper-doctor")
            repository.log_artifact(str(Path(folder, "probe")))  # type: ignore[no-untyped-call]
            repository.delete_artifacts("probe")  # type: ignore[no-untyped-call]
    except (ServiceError, OSError) as error:
        cure = "see MLflow's log: its S3 address, keys and bucket (MLFLOW_ARTIFACTS_DESTINATION)"
        return wrong("artifacts", str(error), cure)
    return well("artifacts", f"{place}: written and deleted through MLflow")


def _webhook() -> list[Finding]:
    setup = f"python -m infra.setup http://RECEIVER:4300/mlflow, with {WEBHOOK_SECRET} set"
    try:
        with mlflow_client() as client:
            ours = [hook for hook in client.list_webhooks() if _tells_versions(hook)]
            if not ours:
                found = "MLflow tells nobody of new versions"
                used = bool(os.environ.get(WEBHOOK_SECRET))
                return [wrong("webhook", found, setup) if used else well("webhook", found)]
            return [_tried(client, hook.webhook_id, hook.url) for hook in ours]
    except ServiceError as error:
        cure = (
            "give MLflow the MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY that it had, or run infra.setup"
        )
        return [wrong("webhook", str(error), cure)]


def _tells_versions(hook: object) -> bool:
    return any(str(event) == "model_version.created" for event in getattr(hook, "events", ()))


def _tried(client: "MlflowClient", webhook: str, url: str) -> Finding:
    # MLflow repeats what fails, for up to half a minute: asking it again meanwhile only adds to it.
    patience = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "90", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
    with environment(patience, replace=True):
        answer = client.test_webhook(webhook, "model_version.created")
    if answer.success:
        return well("webhook", f"{url}: took a signed delivery of MLflow's")
    status = answer.response_status
    why = f"status {status}" if status else " ".join(str(answer.error_message).split())[:200]
    cure = WEBHOOK_CURES.get(
        status or 0, "start it: temper receive; MLflow must be able to reach it"
    )
    return wrong("webhook", f"{url}: MLflow's delivery was not taken ({why})", cure)
