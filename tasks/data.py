"""Steps that turn a dataset on disk into what training may see and what evaluation may see."""

import hashlib
import json
from pathlib import Path
from typing import Any

import torch

from hardening.data import DATASETS, TestData, TrainingData
from hardening.data.checks import check
from hardening.data.split import choose, split
from hardening.errors import DigestError
from hardening.evidence import DataFacts
from hardening.spec import Spec, bind
from tasks.digest import content_sha256
from tasks.step import Located, Run, step
from tasks.store import Artifact


@step
def load_data(
    run: Run,
    source: Located,
    /,
    *,
    dataset: Spec,
    validation: float,
    test: float,
    seed: int,
) -> dict[str, bytes]:
    """Read, check and split a dataset: `training`, `test` and the `facts` of the check."""
    raw = bind(DATASETS, dataset, "data")(Path(source.path))
    if source.sha256 and (now := content_sha256(Path(source.path))) != source.sha256:
        raise DigestError(
            f"{source.path}: got sha256 {now} now, expected {source.sha256} as before"
        )
    checks = check(raw)
    training, held_out = split(raw, validation=validation, test=test, seed=seed)
    facts = {
        "name": dataset.name,
        "sha256": source.sha256,
        "shape": list(raw.train.images.shape[1:]),
        "classes": list(raw.classes),
        "counts": {
            "train": len(training.train),
            "validation": len(training.validation),
            "test": len(held_out.test),
        },
        "checks": checks,
    }
    run.line(
        f"{dataset.name}: {facts['counts']}, {len(raw.classes)} classes, images {facts['shape']}"
    )
    return {
        "training": training.to_bytes(),
        "test": held_out.to_bytes(),
        "facts": json.dumps(facts, allow_nan=False).encode(),
    }


@step
def choose_images(run: Run, test: Artifact, /, *, images: int, seed: int) -> dict[str, bytes]:
    """The test images that every file of a run is attacked on, and their places in the test set."""
    data = TestData.from_bytes(run.read(test))
    indices = choose(data, images, seed)
    return {
        "images": TestData(data.test.take(indices), data.classes).to_bytes(),
        "indices": json.dumps(indices.tolist()).encode(),
    }


def read_training(run: Run, artifact: Artifact) -> TrainingData:
    """The training and validation images."""
    return TrainingData.from_bytes(run.read(artifact))


def read_images(run: Run, artifact: Artifact) -> TestData:
    """The images under evaluation."""
    return TestData.from_bytes(run.read(artifact))


def data_facts(facts: dict[str, Any], data: dict[str, Artifact]) -> DataFacts:
    """The recorded facts with the digests of the two splits.

    A dataset that comes with a library has no file to digest: its two splits stand for it.
    """
    training, test = data["training"].sha256, data["test"].sha256
    whole = facts["sha256"] or hashlib.sha256(f"{training}{test}".encode()).hexdigest()
    return DataFacts(**{**facts, "sha256": whole}, training_sha256=training, test_sha256=test)


def device() -> torch.device:
    """Where models compute: a CUDA device when there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
