"""What every file of a run answers on clean images, and whether it has a twin: asked once."""

from typing import NamedTuple

from flows.config import Config
from flows.subjects import Subject, gather
from tasks.inspect import inspect_file
from tasks.step import Outputs, Result, Runner
from tasks.store import Artifact

Twinless = list[tuple[Artifact, Artifact]]
"""The files of which no gradients are to be had, each with the reason."""


class Seen(NamedTuple):
    """What each subject answers, by its name, and which files lead no attack."""

    subjects: dict[str, Outputs]
    twinless: Twinless


class _File(NamedTuple):
    label: str
    file: Artifact
    brought: bool


def inspect_all(config: Config, go: Runner, subjects: list[Subject], images: Artifact) -> Seen:
    """Inspect every subject, and every float parent that is none: it leads attacks, too."""
    foreign = brought(subjects)
    files = [_File(f"{s.name}: inspect", s.onnx, s.onnx in foreign) for s in subjects]
    for subject in subjects:
        parent = subject.parent
        if parent is not None and all(other.file != parent for other in files):
            # That of a candidate is an export of this run.
            label, ours = f"{subject.name}: inspect float parent", subject.role == "candidate"
            files.append(_File(label, parent, not ours))
    made = gather((file.label, _inspect(config, go, file, images)) for file in files)
    return Seen(
        {subject.name: made[f"{subject.name}: inspect"] for subject in subjects},
        [(f.file, made[f.label]["no_twin"]) for f in files if "no_twin" in made[f.label]],
    )


def _inspect(config: Config, go: Runner, file: _File, images: Artifact) -> Result:
    return go(
        inspect_file,
        file.label,
        file.file,
        images,
        threat=config.attack_threat,
        seed=config.seed,
        brought=file.brought,
        of_brought=not file.brought and config.model.onnx is not None,
    )


def brought(subjects: list[Subject]) -> list[Artifact]:
    """The subjects' files that are no exports of this run: nothing of ours vouches for them."""
    ours = [s.onnx for s in subjects if s.parity is not None or s.ships]
    return [subject.onnx for subject in subjects if subject.onnx not in ours]


def why_no_twin(twinless: Twinless, file: Artifact | None) -> Artifact | None:
    """The reason why a file has no twin; None if it has one."""
    return next((reason for other, reason in twinless if other == file), None)
