"""The doctor's look at the servers: they answer, let us in, and do what Temper needs of them."""

import os
import secrets
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
from prefect.client.orchestration import get_client
from prefect.exceptions import ObjectNotFound
from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, temporary_settings

from hardening.errors import ConfigError, ServiceError
from tasks.finding import Finding
from tasks.mlflow_client import TRACKING, is_server, mlflow_client, probe, shown, tracking_uri
from tasks.settings import PREFECT_API, STORE, WEBHOOK_SECRET, WORK_POOL, store_uri
from tasks.store import open_ground

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from prefect.client.orchestration import SyncPrefectClient

KEYS = "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"

S3_CURES = {
    "NoSuchBucket": f"make the bucket, or correct {STORE}",
    "InvalidAccessKeyId": f"the server does not know the key: correct {KEYS}",
    "SignatureDoesNotMatch": "the secret is not that of the key: correct AWS_SECRET_ACCESS_KEY",
    "AccessDenied": "give the key the right to list, read, write and delete in this bucket",
    "RequestTimeTooSkewed": "set this machine's clock",
    "NoCredentialsError": f"set {KEYS}",
    "PartialCredentialsError": f"set both of {KEYS}",
    "EndpointConnectionError": "start the server, or correct AWS_ENDPOINT_URL",
    "ConnectTimeoutError": "let this machine through to it, or correct AWS_ENDPOINT_URL",
}

WEBHOOK_CURES = {
    401: f"MLflow signs with another secret: python -m infra.setup URL, with {WEBHOOK_SECRET} set",
    404: "the webhook's address is not that of a receiver: python -m infra.setup URL",
    503: f"the receiver does not reach Prefect: correct its {PREFECT_API}",
}


def store() -> list[Finding]:
    """Write, read and delete a probe; a second writer must not replace what the first one put."""
    uri = store_uri()
    name = f"doctor/{secrets.token_hex(8)}"
    try:
        ground = open_ground(uri)
        ours, theirs = ground.create(name, b"first"), ground.create(name, b"second")
        kept = ground.read(name)
        ground.delete(name)
    except ConfigError as error:
        return [_wrong("store", str(error), f"correct {STORE}")]
    except ServiceError as error:
        return [_wrong("store", str(error), _s3_cure(error))]
    if (ours, theirs, kept) != (True, False, b"first"):
        cure = "use a server that knows If-None-Match: without it two could promote at once"
        return [_wrong("store", f"{uri}: lets a second writer replace an object", cure)]
    return [_well("store", f"{uri}: written, read and deleted; put-if-absent holds")]


def tracking() -> list[Finding]:
    """Read and write the registry and the artifacts, and let MLflow try its webhook."""
    uri = tracking_uri()
    try:
        if not is_server(uri):
            probe()
            return [_well("MLflow", f"embedded, {uri}")]
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
        return [_wrong("MLflow", str(error), cure)]
    well = _well("MLflow", f"{shown(uri)}: registry read and written")
    return [well, _artifacts(), *_webhook()]


def orchestration() -> list[Finding]:
    """Versions of both sides, the work pool, and somebody who works."""
    url = os.environ.get(PREFECT_API)
    if not url:
        return [_well("Prefect", f"no {PREFECT_API}: a server of our own, started when needed")]
    try:
        with (
            temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0}),
            get_client(httpx_settings={"timeout": 5}, sync_client=True) as client,
        ):
            return [_api(client, shown(url)), *_pool(client)]
    except httpx.HTTPStatusError as error:
        status = error.response.status_code
        cure = "correct PREFECT_API_AUTH_STRING (user:password)" if status == 401 else "see its log"
        return [_wrong("Prefect", f"{shown(url)}: answers with status {status}", cure)]
    except httpx.HTTPError as error:
        found = f"{shown(url)}: does not answer ({error or type(error).__name__})"
        return [_wrong("Prefect", found, f"start it, or correct {PREFECT_API}")]


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
                return _wrong("artifacts", found, cure)
            Path(folder, "probe").write_bytes(b"probe")
            repository = get_artifact_repository(f"{place}/temper-doctor")
            repository.log_artifact(str(Path(folder, "probe")))  # type: ignore[no-untyped-call]
            repository.delete_artifacts("probe")  # type: ignore[no-untyped-call]
    except (ServiceError, OSError) as error:
        cure = "see MLflow's log: its S3 address, keys and bucket (MLFLOW_ARTIFACTS_DESTINATION)"
        return _wrong("artifacts", str(error), cure)
    return _well("artifacts", f"{place}: written and deleted through MLflow")


def _webhook() -> list[Finding]:
    setup = f"python -m infra.setup http://RECEIVER:4300/mlflow, with {WEBHOOK_SECRET} set"
    try:
        with mlflow_client() as client:
            ours = [hook for hook in client.list_webhooks() if _tells_versions(hook)]
            if not ours:
                found = "MLflow tells nobody of new versions"
                used = bool(os.environ.get(WEBHOOK_SECRET))
                return [_wrong("webhook", found, setup) if used else _well("webhook", found)]
            return [_tried(client, hook.webhook_id, hook.url) for hook in ours]
    except ServiceError as error:
        cure = (
            "give MLflow the MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY that it had, or run infra.setup"
        )
        return [_wrong("webhook", str(error), cure)]


def _tells_versions(hook: object) -> bool:
    return any(str(event) == "model_version.created" for event in getattr(hook, "events", ()))


def _tried(client: "MlflowClient", webhook: str, url: str) -> Finding:
    answer = client.test_webhook(webhook, "model_version.created")
    if answer.success:
        return _well("webhook", f"{url}: took a signed delivery of MLflow's")
    status = answer.response_status
    why = f"status {status}" if status else " ".join(str(answer.error_message).split())[:200]
    cure = WEBHOOK_CURES.get(
        status or 0, "start it: temper receive; MLflow must be able to reach it"
    )
    return _wrong("webhook", f"{url}: MLflow's delivery was not taken ({why})", cure)


def _api(client: "SyncPrefectClient", url: str) -> Finding:
    server, ours = client.api_version(), client.client_version()
    if server.split(".")[:2] != ours.split(".")[:2]:
        found = f"{url}: the server is {server}, this is {ours}"
        return _wrong(
            "Prefect", found, f"pip install prefect=={server} here, or upgrade the server"
        )
    return _well("Prefect", f"{url}: answers, {server}")


def _pool(client: "SyncPrefectClient") -> list[Finding]:
    try:
        pool = client.read_work_pool(WORK_POOL)
    except ObjectNotFound:
        cure = f"prefect work-pool create {WORK_POOL} --type process"
        return [_wrong("work pool", f"there is no {WORK_POOL!r}", cure)]
    if pool.is_paused:
        cure = f"prefect work-pool resume {WORK_POOL}"
        return [_wrong("work pool", f"{WORK_POOL!r} is paused", cure)]
    workers = client.read_workers_for_work_pool(WORK_POOL)
    there = [worker.name for worker in workers if worker.status == "ONLINE"]
    if not there:
        cure = f"prefect worker start --pool {WORK_POOL}"
        return [_wrong("worker", f"none is online in {WORK_POOL!r}", cure)]
    return [_well("worker", f"{len(there)} online in {WORK_POOL!r}: {', '.join(there)}")]


def _s3_cure(error: ServiceError) -> str:
    cause = error.__cause__
    answer = getattr(cause, "response", {})
    code = answer.get("Error", {}).get("Code", type(cause).__name__)
    if answer.get("ResponseMetadata", {}).get("HTTPStatusCode") == 403:
        return S3_CURES.get(code, S3_CURES["AccessDenied"])
    return S3_CURES.get(code, "see the server's log")


def _well(check: str, found: str) -> Finding:
    return Finding(check=check, ok=True, found=found)


def _wrong(check: str, found: str, cure: str) -> Finding:
    return Finding(check=check, ok=False, found=found, cure=cure)
