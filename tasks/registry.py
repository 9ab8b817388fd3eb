"""The model registry: fetched by digest, registered once, promoted one at a time."""

import hashlib
import time
from functools import partial
from typing import TYPE_CHECKING

from hardening.deployment.lineage import belongs
from hardening.errors import DigestError
from hardening.evidence import Evidence, File, RunEvidence
from hardening.verdict import Verdict
from tasks.cache import check_size
from tasks.champion import follow, reigning
from tasks.console import say
from tasks.lock import locked
from tasks.mlflow_client import mlflow_client
from tasks.mlflow_model import fetch, listed_size
from tasks.promotion import barred, promote
from tasks.tags import MADE_AGAIN, RECIPE, measured_tags, recipe
from tasks.versions import VERDICT, Registered, check_name, every, make, model, resolve

if TYPE_CHECKING:
    from mlflow import MlflowClient

CHALLENGER = "challenger"


def champion(name: str) -> Registered | None:
    """The version that is the champion of `name`; None when there is no such model or champion.

    Raises:
        BrokenPromise: The ledger was tampered with, is another one, or the alias was moved by hand.
        ServiceError: MLflow does not answer or refuses.
    """
    with mlflow_client() as client:
        return reigning(client, name)


def settle(name: str) -> None:
    """Do what promoters of `name` left undone that were killed; nothing if there is no such model.

    Raises:
        BrokenPromise, ServiceError: As `champion`.
    """
    with mlflow_client() as client:
        if model(client, name) is not None:
            follow(client, name)


def download(uri: str) -> bytes:
    """The model file of `models:/NAME@ALIAS` or `models:/NAME/VERSION`: ONNX, else weights.

    Raises:
        ModelError: There is no such model, alias or version, or it holds no model file.
        DataError: Its files, as MLflow lists them, are larger than the settings allow.
        DigestError: The bytes are not those that were registered.
        ServiceError: MLflow does not answer or refuses.
    """
    with mlflow_client() as client:
        found = resolve(client, uri)
        check_size(uri, listed_size(found.uri))
        data = fetch(found.uri)
    got = hashlib.sha256(data).hexdigest()
    if found.sha256 is not None and got != found.sha256:
        raise DigestError(
            f"{uri}: got {len(data)} B with sha256 {got}, expected {found.sha256} as registered"
        )
    return data


def register(
    logged_model_uri: str,
    name: str,
    evidence: Evidence,
    run: RunEvidence,
    verdict: Verdict,
    digest: str,
) -> Registered:
    """Make the logged file a version of `name`, and the champion if the verdict promotes it.

    The same file with the same evidence is registered once; it is the challenger in any case. The
    champion is replaced only while it is the one that this run measured: see `tasks.promotion`.

    Args:
        logged_model_uri: `models:/m-...` as `log_run` returned it.
        evidence: The model's part of `run`.
        digest: sha256 of the evidence of the whole run.

    Raises:
        DigestError: The logged file is not the one that was measured.
        BrokenPromise: The champion is no longer the one this run was compared with.
        ModelError: A registered model cannot be called `name`.
        ServiceError: MLflow does not answer or refuses.
    """
    if verdict.promote and verdict.chosen != evidence.name:
        raise ValueError(f"got {evidence.name!r} to register, the verdict chose {verdict.chosen!r}")
    check_name(name)
    with locked(f"registry-{name}"), mlflow_client() as client:
        shipped = _measured(logged_model_uri, evidence)
        tags = measured_tags(shipped, evidence, run, digest)
        tags[RECIPE] = recipe(run.config, run.data.sha256)
        version = _version(client, logged_model_uri, name, tags)
        return _conclude(client, name, version, run, verdict)


def judge_version(
    name: str, version: int, evidence: Evidence, run: RunEvidence, verdict: Verdict, digest: str
) -> Registered:
    """Write what was measured on a version that is there already, and perhaps promote it.

    Args and errors are those of `register`.
    """
    uri = f"models:/{name}/{version}"
    with locked(f"registry-{name}"), mlflow_client() as client:
        resolve(client, uri)
        _tag(client, name, version, measured_tags(_measured(uri, evidence), evidence, run, digest))
        return _conclude(client, name, version, run, verdict)


def made_again(
    name: str, evidence: Evidence, run: RunEvidence, verdict: Verdict
) -> Registered | None:
    """The champion of `name` if `evidence` is of its very file: then it needs no second version.

    It is noted that it is made from this run's recipe, too, and when it was made again. A verdict
    that it has stays with the evidence that it was reached on.
    """
    measured = _champion_of(run)
    if measured is None or measured.identity != evidence.file.identity:
        return None
    with mlflow_client() as client:
        found = reigning(client, name)
        if found is None or not _is_measured(found, measured):
            return None
        again = {RECIPE: recipe(run.config, run.data.sha256), MADE_AGAIN: f"{time.time():.0f}"}
        _tag(client, name, found.version, again)
        follow(client, name)
        _tag(client, name, found.version, {VERDICT: found.tags.get(VERDICT, _said(verdict))})
        return resolve(client, found.uri)


def _measured(uri: str, evidence: Evidence) -> str:
    """The digest of the file at `uri`, which must have the graph that was measured."""
    data = fetch(uri)
    got = hashlib.sha256(data).hexdigest()
    if not belongs(data, evidence.file):
        raise DigestError(
            f"{uri}: got sha256 {got}, expected the graph of the file "
            f"{evidence.file.sha256} as measured"
        )
    return got


def _conclude(
    client: "MlflowClient", name: str, version: int, run: RunEvidence, verdict: Verdict
) -> Registered:
    client.set_registered_model_alias(name, CHALLENGER, str(version))
    said = _said(verdict)
    if verdict.passed and verdict.promote:
        if why := barred(client, name, version):
            said = f"refused: {why}"
            say(f"{name} version {version}: {said}")
        else:
            expected = partial(_is_measured, measured=_champion_of(run))
            promote(client, name, version, expected, verdict.reason)
    follow(client, name)  # somebody before may have been killed with the alias still to move
    # Last: who is killed before this has not finished, and is helped by the next to come.
    _tag(client, name, version, {VERDICT: said})
    return resolve(client, f"models:/{name}/{version}")


def _said(verdict: Verdict) -> str:
    return "passed" if verdict.passed else "failed"


def _champion_of(run: RunEvidence) -> File | None:
    """The champion that a run measured."""
    return next((m.file for m in run.models.values() if m.role == "champion"), None)


def _tag(client: "MlflowClient", name: str, version: int, tags: dict[str, str]) -> None:
    for tag, text in tags.items():
        client.set_model_version_tag(name, str(version), tag, text)


def _version(client: "MlflowClient", uri: str, name: str, tags: dict[str, str]) -> int:
    """The version with this file and this evidence, made if there is none."""
    make(client, name)
    for found in every(client, name):
        if all(found.tags.get(tag) == tags[tag] for tag in ("temper.sha256", "temper.evidence")):
            _tag(client, name, found.version, tags)
            return found.version
    model_id = uri.removeprefix("models:/")
    return int(client.create_model_version(name, uri, tags=tags, model_id=model_id).version)


def _is_measured(found: Registered | None, measured: File | None) -> bool:
    """Whether the champion is the measured one, or there is still none."""
    if found is None or measured is None:
        return found is None and measured is None
    graph = found.tags.get("temper.graph")
    return graph == measured.identity if graph else belongs(fetch(found.uri), measured)
