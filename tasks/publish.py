"""What leaves a run: a folder for people, a run and a version in MLflow, artifacts in Prefect."""

import os
import secrets
import shutil
import time
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from prefect import task
from prefect.cache_policies import NO_CACHE

from hardening.errors import ConfigError
from hardening.evidence import RunEvidence
from hardening.report.summary import markdown, table
from hardening.spec import Record
from hardening.verdict import Gate, Verdict, missing_attacks
from tasks import artifacts, events, registry, tracking
from tasks.folder import STALE
from tasks.store import Artifact, Store
from tasks.versions import Registered


class Published(Record):
    """Where a run can be looked at, and what became of its winner."""

    folder: str
    report: str
    tracking: str
    run_id: str
    version: int | None
    aliases: list[str]


def check_output(folder: Path) -> None:
    """Make sure that a run can be written below `folder` before anything starts.

    Raises:
        ConfigError: It cannot.
    """
    probe = folder / f".probe-{secrets.token_hex(4)}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise ConfigError(f"output {folder}: cannot be written ({error.strerror})") from error


@task(task_run_name="write folder", cache_policy=NO_CACHE, persist_result=False)
def write_folder(files: Mapping[str, bytes], name: str, output: Path) -> Path:
    """Write `output/name/<time>/` at once, and point `latest` to it.

    The same files as in `latest` are not written a second time.
    """
    home = output / name
    _sweep(home)
    latest = home / "latest"
    if latest.is_dir() and _holds(latest, files):
        return latest.resolve()
    home.mkdir(parents=True, exist_ok=True)
    draft = home / f".draft-{secrets.token_hex(4)}"
    draft.mkdir()
    try:
        for file, data in files.items():
            (draft / file).parent.mkdir(parents=True, exist_ok=True)
            (draft / file).write_bytes(data)
        folder = home / f"{datetime.now(UTC):%Y-%m-%dT%H-%M-%SZ}"
        if folder.exists():
            folder = folder.with_name(f"{folder.name}-{secrets.token_hex(2)}")
        draft.rename(folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    link = home / f".latest-{secrets.token_hex(4)}"
    link.symlink_to(folder.name)
    os.replace(link, latest)
    return folder


@task(task_run_name="publish", cache_policy=NO_CACHE, persist_result=False)
def publish(
    files: Mapping[str, bytes],
    models: Mapping[str, bytes],
    folder: Path,
    evidence: Artifact,
    gate: Gate,
    register_as: str | None,
    version_of: int | None = None,
) -> Published:
    """Log the run to MLflow, register and perhaps promote the winner, tell Prefect.

    Args:
        register_as: The registered model, if any.
        version_of: The version that the run was about, if it is registered already.
    """
    run = RunEvidence.model_validate_json(files["evidence.json"])
    verdict = Verdict.model_validate_json(files["verdict.json"])
    logged = tracking.log_run(run, gate, verdict, files, models, evidence.sha256)
    registered = None
    if register_as is not None:
        registered = _register(
            logged, register_as, version_of, run=run, verdict=verdict, digest=evidence.sha256
        )
    if not verdict.passed:
        events.tell(events.refused(run.name, evidence.sha256, verdict.reason))
    report = folder / "report.html"
    artifacts.publish(
        run.name,
        table(run, verdict),
        markdown(run, gate, verdict),
        {"mlflow": logged.url, "report": report.as_uri()},
    )
    return Published(
        folder=str(folder),
        report=str(report),
        tracking=logged.url,
        run_id=logged.run_id,
        version=registered.version if registered else None,
        aliases=registered.aliases if registered else [],
    )


def _register(
    logged: tracking.Logged,
    name: str,
    version_of: int | None,
    *,
    run: RunEvidence,
    verdict: Verdict,
    digest: str,
) -> Registered | None:
    """What the winner is in the registry; None where nothing ships."""
    best = verdict.chosen or most_robust(run)
    if best is None:
        return None
    winner = run.models[best]
    if version_of is not None:
        return registry.judge_version(name, version_of, winner, run, verdict, digest)
    return registry.made_again(name, winner, run, verdict) or registry.register(
        logged.model_uris[winner.name], name, winner, run, verdict, digest
    )


def read_all(store: Store, files: Mapping[str, Artifact]) -> dict[str, bytes]:
    """The bytes of several artifacts, each checked against its digest."""
    return {name: store.get(artifact) for name, artifact in files.items()}


def most_robust(run: RunEvidence) -> str | None:
    """The model that comes nearest to the gate when none passes: the most robust candidate.

    One whose due attacks did not all run comes after all others. None if no candidate ships: the
    control is in its place only where there are no candidates.
    """
    candidates = [m for m in run.models.values() if m.role == "candidate"]
    shipped = [m for m in candidates or [run.models["control"]] if not m.ships]
    best = max(shipped, key=lambda m: (not missing_attacks(m), m.robust.value), default=None)
    return None if best is None else best.name


def _sweep(home: Path) -> None:
    """Remove what runs left that were killed while they wrote: nobody writes for a day."""
    for pattern in (".draft-*", ".latest-*"):
        for path in home.glob(pattern):
            with suppress(OSError):  # another run was quicker, or it is another user's
                if time.time() - path.lstat().st_mtime > STALE:
                    path.unlink() if path.is_symlink() else shutil.rmtree(path)


def _holds(folder: Path, files: Mapping[str, bytes]) -> bool:
    there = {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}
    return there == set(files) and all((folder / f).read_bytes() == d for f, d in files.items())
