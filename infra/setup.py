"""Makes S3, Prefect and MLflow ready for Temper; harmless when repeated.

    python -m infra.setup http://127.0.0.1:4300/mlflow

The bucket of TEMPER_STORE, the work pool `temper` with its queue `training`, the slot TEMPER_SLOT,
the automations that end runs nobody works at any more, and the webhook that tells the receiver at
the given address of new versions. Where the servers are, and the secret, come from the environment.
"""

import argparse
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import yaml
from botocore.exceptions import BotoCoreError, ClientError
from mlflow import MlflowClient
from mlflow.entities.webhook import Webhook
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate, WorkPoolCreate
from prefect.events.schemas.automations import AutomationCore
from prefect.exceptions import ObjectAlreadyExists
from prefect.settings import PREFECT_API_URL

from hardening.errors import ConfigError, HardeningError, ServiceError
from tasks.mlflow_client import mlflow_client, shown
from tasks.s3 import client, parse
from tasks.settings import PREFECT_API, SLOT, WORK_POOL, store_uri, webhook_secret

TRAINING = "training"
"""The queue of runs that need a whole machine for hours."""

TRAININGS = 1
"""Runs of the queue `training` at a time: one for every machine with a worker."""

WEBHOOK = "temper"
"""Name of our webhook in MLflow."""

AUTOMATIONS = Path(__file__).with_name("automations.yaml")


def make_bucket() -> None:
    """Make the bucket of the store, if the store is on S3 and its bucket is not there.

    Raises:
        ServiceError: S3 does not answer or refuses.
    """
    if not store_uri().startswith("s3://"):
        return
    name, _ = parse(store_uri())
    s3 = client()
    try:
        if name not in {bucket["Name"] for bucket in s3.list_buckets()["Buckets"]}:
            s3.create_bucket(Bucket=name)
    except (BotoCoreError, ClientError) as error:
        raise ServiceError(f"{store_uri()}: the bucket cannot be made ({error})") from error


def make_pool() -> None:
    """Make the work pool and its queue; what an operator has changed of them stays.

    Raises:
        ServiceError: Prefect does not answer or refuses.
    """
    with _prefect() as prefect:
        with suppress(ObjectAlreadyExists):
            prefect.create_work_pool(WorkPoolCreate(name=WORK_POOL, type="process"))
        with suppress(ObjectAlreadyExists):
            prefect.create_work_queue(
                TRAINING, concurrency_limit=TRAININGS, work_pool_name=WORK_POOL
            )


def make_slot() -> None:
    """Make the slot that trainings on this machine hold, if it has a name; it has room for one.

    Raises:
        ServiceError: Prefect does not answer or refuses.
    """
    if name := os.environ.get(SLOT):
        with _prefect() as prefect, suppress(ObjectAlreadyExists):
            prefect.create_global_concurrency_limit(
                GlobalConcurrencyLimitCreate(name=name, limit=1)
            )


def make_automations() -> None:
    """Make the automations of `automations.yaml`; what an operator has changed of them stays.

    One that is there is not written again: Prefect would forget which runs it waits for.

    Raises:
        ServiceError: Prefect does not answer or refuses.
    """
    wanted = yaml.safe_load(AUTOMATIONS.read_text())["automations"]
    with _prefect() as prefect:
        for automation in map(AutomationCore.model_validate, wanted):
            if not prefect.read_automations_by_name(automation.name):
                prefect.create_automation(automation)


def make_webhook(url: str, secret: str) -> None:
    """Let MLflow tell the receiver at `url` of every new version, signed with our secret.

    Raises:
        ServiceError: MLflow does not answer or refuses.
    """
    with mlflow_client() as mlflow:
        ours = _webhook(mlflow)
        if ours is None:
            mlflow.create_webhook(WEBHOOK, url, ["model_version.created"], secret=secret)
        else:  # the secret cannot be read back, and may be another one by now
            mlflow.update_webhook(ours.webhook_id, url=url, secret=secret)


def main(arguments: list[str] | None = None) -> int:
    """Make everything and return the exit code: 0, or 2 with one line that says what is wrong."""
    parser = argparse.ArgumentParser("python -m infra.setup", description="servers, made ready")
    parser.add_argument("url", metavar="URL", help="of the receiver, for MLflow: http://.../mlflow")
    url = parser.parse_args(arguments).url
    try:
        if not url.startswith(("http://", "https://")):
            raise ConfigError(f"URL: got {url!r}, expected http://receiver:4300/mlflow")
        if not PREFECT_API_URL.value():
            raise ConfigError(f"{PREFECT_API}: got nothing, expected the Prefect server to set up")
        secret = webhook_secret()
        make_bucket()
        make_pool()
        make_slot()
        make_automations()
        make_webhook(url, secret)
    except HardeningError as error:
        print(f"setup: {shown(' '.join(str(error).split()))}", file=sys.stderr)
        return 2
    return 0


@contextmanager
def _prefect() -> Iterator[SyncPrefectClient]:
    """A client of Prefect, whose errors are one line."""
    try:
        with get_client(sync_client=True) as prefect:
            yield prefect
    except (httpx.HTTPError, RuntimeError) as error:
        first = str(error).partition("\n")[0] or type(error).__name__
        raise ServiceError(f"{PREFECT_API}: Prefect does not do it ({first})") from error


def _webhook(mlflow: MlflowClient) -> Webhook | None:
    return next((found for found in mlflow.list_webhooks() if found.name == WEBHOOK), None)


if __name__ == "__main__":
    sys.exit(main())
