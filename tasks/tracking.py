"""One run, once, in MLflow: what was measured, the files, and the very bytes of every model."""

import hashlib
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from hardening.deployment.lineage import belongs
from hardening.errors import BrokenPromise, DigestError
from hardening.evidence import DataFacts, RunEvidence
from hardening.spec import Record
from hardening.verdict import Gate, Verdict
from tasks.lock import locked
from tasks.mlflow_client import experiment_id, is_server, mlflow_client, probe, shown, tracking_uri
from tasks.mlflow_content import (
    Measure,
    model_measures,
    model_params,
    model_tags,
    run_params,
    run_tags,
)
from tasks.mlflow_model import log_model

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

__all__ = ["Logged", "log_run", "probe", "tracking_uri"]

JUDGEMENT = "temper.judgement"

BATCH = 100
"""Most parameters of one request to MLflow."""


class Logged(Record):
    """Where a run is in MLflow.

    `url` is its page on a server, else the address of the database that holds it; `model_uris`
    says `models:/m-...` for every model whose file was logged.
    """

    run_id: str
    experiment_id: str
    url: str
    model_uris: dict[str, str]


def log_run(
    run: RunEvidence,
    gate: Gate,
    verdict: Verdict,
    files: Mapping[str, bytes],
    models: Mapping[str, bytes],
    digest: str,
) -> Logged:
    """Log a run, a nested run per model and all files; the run is FINISHED when all of it is there.

    What was logged before (same evidence, same judgement) is found and not logged again; what was
    begun and not finished is marked and logged anew.

    Args:
        files: Artifacts of the run, by file name; `folder/file` makes a folder.
        models: ONNX files, by the name of their model in `run`.
        digest: sha256 of the evidence.

    Raises:
        DigestError: A file in `models` is not the one that was measured.
        NumericsError: A number is not finite.
        ServiceError: MLflow does not answer or refuses.
        BrokenPromise: MLflow does not hold what it was given.
    """
    _check(run, models)
    measures = {name: model_measures(model) for name, model in run.models.items()}
    tags = run_tags(run, gate, verdict, digest)
    with locked(f"log-{digest}"), mlflow_client() as client:
        experiment = experiment_id(client, run.name)
        earlier = client.search_runs([experiment], f"tags.`temper.evidence` = '{digest}'")
        judged = [old for old in earlier if old.data.tags[JUDGEMENT] == tags[JUDGEMENT]]
        if done := next((old for old in judged if old.info.status == "FINISHED"), None):
            return _logged(client, done)
        with _open_run(client, experiment, run.name, tags) as parent:
            for old in earlier:
                if old.info.status != "FINISHED":
                    _give_up(client, old, parent)
            _send(client, parent, run_params(run, gate), [])
            for name, model in run.models.items():
                labels = {**model_tags(model, verdict), "mlflow.parentRunId": parent}
                with _open_run(client, experiment, name, labels) as child:
                    _send(client, child, model_params(model), measures[name])
                    _keep(client, child, name, models.get(name), run.data)
            _store(client, parent, files)
        return _logged(client, client.get_run(parent))


def _check(run: RunEvidence, models: Mapping[str, bytes]) -> None:
    for name, data in models.items():
        if name not in run.models:
            raise ValueError(f"got a file of {name!r}, expected one of {', '.join(run.models)}")
        if not belongs(data, run.models[name].file):
            got, expected = hashlib.sha256(data).hexdigest(), run.models[name].file.sha256
            raise DigestError(
                f"model {name!r}: got {len(data)} B with sha256 {got}, expected the file that was "
                f"measured as {expected}"
            )


@contextmanager
def _open_run(
    client: "MlflowClient", experiment: str, name: str, tags: Mapping[str, str]
) -> Iterator[str]:
    """A run that ends FINISHED only when the body did; killed, it stays RUNNING."""
    from mlflow.exceptions import MlflowException  # noqa: PLC0415

    run_id = str(client.create_run(experiment, tags=dict(tags), run_name=name).info.run_id)
    try:
        yield run_id
    except BaseException:
        # MLflow may be what failed: the first error is the one to tell.
        with suppress(MlflowException):
            client.set_terminated(run_id, "FAILED")
        raise
    client.set_terminated(run_id, "FINISHED")


def _send(
    client: "MlflowClient", run_id: str, params: Mapping[str, str], measures: list[Measure]
) -> None:
    from mlflow.entities import Metric, Param  # noqa: PLC0415

    now = time.time_ns() // 1_000_000  # milliseconds
    entries = [Param(key, value) for key, value in params.items()]
    for start in range(0, len(entries), BATCH):
        client.log_batch(run_id, params=entries[start : start + BATCH])
    metrics = [Metric(m.key, m.value, now, m.step) for m in measures]
    for start in range(0, len(metrics), BATCH):
        client.log_batch(run_id, metrics=metrics[start : start + BATCH])


def _keep(
    client: "MlflowClient", run_id: str, name: str, data: bytes | None, about: DataFacts
) -> None:
    """Log a model's file, if it has one."""
    if data is not None:
        uri = log_model(client, run_id, name, data, about)
        client.set_tag(run_id, "temper.model_uri", uri)


def _store(client: "MlflowClient", run_id: str, files: Mapping[str, bytes]) -> None:
    """Log `files` as artifacts of the run, and see them listed with their sizes."""
    with tempfile.TemporaryDirectory() as folder:
        for name, data in files.items():
            path = Path(folder, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        client.log_artifacts(run_id, folder)
    folders = {None if "/" not in name else name.rpartition("/")[0] for name in files}
    listings = [client.list_artifacts(run_id, folder) for folder in folders]
    listed = {info.path: info.file_size for listing in listings for info in listing}
    for name, data in files.items():
        if listed.get(name) != len(data):
            raise BrokenPromise(
                f"artifact {name} of MLflow run {run_id}: got {listed.get(name)} B listed, "
                f"expected {len(data)} B"
            )


def _give_up(client: "MlflowClient", old: "Run", successor: str) -> None:
    """Mark a run that was never finished, and the runs nested in it, as replaced."""
    run_id = old.info.run_id
    nested = client.search_runs([old.info.experiment_id], f"tags.`mlflow.parentRunId` = '{run_id}'")
    for run in (*nested, old):
        client.set_tag(run.info.run_id, "temper.replaced_by", successor)
        client.set_terminated(run.info.run_id, "KILLED")


def _logged(client: "MlflowClient", parent: "Run") -> Logged:
    uri, run_id, experiment = tracking_uri(), parent.info.run_id, parent.info.experiment_id
    nested = client.search_runs([experiment], f"tags.`mlflow.parentRunId` = '{run_id}'")
    page = f"{shown(uri).rstrip('/')}/#/experiments/{experiment}/runs/{run_id}"
    return Logged(
        run_id=run_id,
        experiment_id=experiment,
        url=page if is_server(uri) else shown(uri),
        model_uris={
            run.data.tags["temper.model"]: run.data.tags["temper.model_uri"]
            for run in nested
            if "temper.model_uri" in run.data.tags
        },
    )
