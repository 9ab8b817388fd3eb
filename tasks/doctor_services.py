"""The doctor's look at the store and at Prefect: they answer, let us in, and do what we need."""

import os
import secrets
from typing import TYPE_CHECKING

import httpx
from prefect.client.orchestration import get_client
from prefect.exceptions import ObjectNotFound
from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, temporary_settings

from hardening.errors import ConfigError, ServiceError
from tasks import s3_failures
from tasks.finding import Finding, well, wrong
from tasks.mlflow_client import shown
from tasks.settings import PREFECT_API, SLOT, STORE, WORK_POOL, store_uri
from tasks.store import open_ground

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient


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
        return [wrong("store", str(error), f"correct {STORE}")]
    except ServiceError as error:
        cure = s3_failures.cure(error.__cause__)
        return [wrong("store", str(error).removesuffix(f"; {cure}"), cure)]
    if (ours, theirs, kept) != (True, False, b"first"):
        cure = "use a server that knows If-None-Match: without it two could promote at once"
        return [wrong("store", f"{uri}: lets a second writer replace an object", cure)]
    return [well("store", f"{uri}: written, read and deleted; put-if-absent holds")]


def orchestration() -> list[Finding]:
    """Versions of both sides, the work pool, and somebody who works."""
    url = os.environ.get(PREFECT_API)
    if not url:
        return [well("Prefect", f"no {PREFECT_API}: a server of our own, started when needed")]
    try:
        with (
            temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0}),
            get_client(httpx_settings={"timeout": 5}, sync_client=True) as client,
        ):
            return [_api(client, shown(url)), *_pool(client), *_slot(client)]
    except httpx.HTTPStatusError as error:
        status = error.response.status_code
        cure = "correct PREFECT_API_AUTH_STRING (user:password)" if status == 401 else "see its log"
        return [wrong("Prefect", f"{shown(url)}: answers with status {status}", cure)]
    except httpx.HTTPError as error:
        found = f"{shown(url)}: does not answer ({error or type(error).__name__})"
        return [wrong("Prefect", found, f"start it, or correct {PREFECT_API}")]
    except ValueError:
        found = f"{shown(url)}: answers, and not as Prefect's API does"
        cure = f"correct {PREFECT_API}: it ends in /api, and no proxy's page is before it"
        return [wrong("Prefect", found, cure)]


def _api(client: "SyncPrefectClient", url: str) -> Finding:
    server, ours = client.api_version(), client.client_version()
    if server.split(".")[:2] != ours.split(".")[:2]:
        found = f"{url}: the server is {server}, this is {ours}"
        return wrong("Prefect", found, f"pip install prefect=={server} here, or upgrade the server")
    return well("Prefect", f"{url}: answers, {server}")


def _pool(client: "SyncPrefectClient") -> list[Finding]:
    try:
        pool = client.read_work_pool(WORK_POOL)
    except ObjectNotFound:
        cure = f"prefect work-pool create {WORK_POOL} --type process"
        return [wrong("work pool", f"there is no {WORK_POOL!r}", cure)]
    if pool.is_paused:
        cure = f"prefect work-pool resume {WORK_POOL}"
        return [wrong("work pool", f"{WORK_POOL!r} is paused", cure)]
    workers = client.read_workers_for_work_pool(WORK_POOL)
    there = [worker.name for worker in workers if worker.status == "ONLINE"]
    if not there:
        cure = f"prefect worker start --pool {WORK_POOL}"
        return [wrong("worker", f"none is online in {WORK_POOL!r}", cure)]
    return [well("worker", f"{len(there)} online in {WORK_POOL!r}: {', '.join(there)}")]


def _slot(client: "SyncPrefectClient") -> list[Finding]:
    name = os.environ.get(SLOT)
    if not name:
        return []
    try:
        limit = client.read_global_concurrency_limit_by_name(name)
    except ObjectNotFound:
        cure = f"prefect gcl create {name} --limit 1, or correct {SLOT}"
        return [wrong("slot", f"Prefect has no concurrency limit {name!r}", cure)]
    return [well("slot", f"{name}: {limit.active_slots} of {limit.limit} trainings")]
