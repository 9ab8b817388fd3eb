"""Makes S3, Prefect and MLflow ready for Temper; harmless when repeated.

    python -m infra.setup http://127.0.0.1:4300/mlflow

The bucket of TEMPER_STORE, the work pool `temper` with its queue `training`, the slot TEMPER_SLOT,
and the webhook that tells the receiver at the given address of new versions. Where the servers are,
and the secret, come from the environment.
"""

import os
import sys
from contextlib import suppress

from mlflow import MlflowClient
from mlflow.entities.webhook import Webhook
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate, WorkPoolCreate
from prefect.exceptions import ObjectAlreadyExists

from tasks.mlflow_client import mlflow_client
from tasks.s3 import client, parse
from tasks.settings import SLOT, WORK_POOL, store_uri, webhook_secret

TRAINING = "training"
"""The queue of runs that need a whole machine for hours."""

TRAININGS = 1
"""Runs of the queue `training` at a time: one for every machine with a worker."""

WEBHOOK = "temper"
"""Name of our webhook in MLflow."""


def make_bucket() -> None:
    """Make the bucket of the store, if the store is on S3 and its bucket is not there."""
    if not store_uri().startswith("s3://"):
        return
    name, _ = parse(store_uri())
    s3 = client()
    if name not in {bucket["Name"] for bucket in s3.list_buckets()["Buckets"]}:
        s3.create_bucket(Bucket=name)


def make_pool() -> None:
    """Make the work pool and its queue; what an operator has changed of them stays."""
    with get_client(sync_client=True) as prefect:
        with suppress(ObjectAlreadyExists):
            prefect.create_work_pool(WorkPoolCreate(name=WORK_POOL, type="process"))
        with suppress(ObjectAlreadyExists):
            prefect.create_work_queue(
                TRAINING, concurrency_limit=TRAININGS, work_pool_name=WORK_POOL
            )


def make_slot() -> None:
    """Make the slot that trainings on this machine hold, if it has a name; it has room for one."""
    if name := os.environ.get(SLOT):
        with get_client(sync_client=True) as prefect, suppress(ObjectAlreadyExists):
            prefect.create_global_concurrency_limit(
                GlobalConcurrencyLimitCreate(name=name, limit=1)
            )


def make_webhook(url: str) -> None:
    """Let MLflow tell the receiver at `url` of every new version, signed with our secret."""
    secret = webhook_secret()
    with mlflow_client() as mlflow:
        ours = _webhook(mlflow)
        if ours is None:
            mlflow.create_webhook(WEBHOOK, url, ["model_version.created"], secret=secret)
        else:  # the secret cannot be read back, and may be another one by now
            mlflow.update_webhook(ours.webhook_id, url=url, secret=secret)


def _webhook(mlflow: MlflowClient) -> Webhook | None:
    return next((found for found in mlflow.list_webhooks() if found.name == WEBHOOK), None)


if __name__ == "__main__":
    make_bucket()
    make_pool()
    make_slot()
    make_webhook(sys.argv[1])
