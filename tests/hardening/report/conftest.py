"""Evidence built by hand: complete, small, and of any shape a test asks for."""

import hashlib
from types import SimpleNamespace

import pytest
import torch

from hardening.evidence import (
    Alarm,
    AttackRow,
    DataFacts,
    Evidence,
    Example,
    File,
    Latency,
    Parity,
    Point,
    RunEvidence,
)
from hardening.report.pictures import Picture
from hardening.statistics import accuracy
from hardening.threat import ThreatModel
from hardening.verdict import Gate

IMAGES = 200
KINDS = {"apgd-ce": "white-box", "apgd-dlr": "white-box", "square": "gradient-free"}


def digest(text):
    return hashlib.sha256(text.encode()).hexdigest()


def outcomes(share):
    """The first images stay correct: so any two models' outcomes are nested."""
    return [index < round(share * IMAGES) for index in range(IMAGES)]


def attack(name, share, *, kind=None, source="file"):
    return AttackRow(
        name=name,
        attack=name.split("-")[0],
        params={"steps": 20, "loss": "ce"},
        source=source,
        kind=kind or KINDS[name],
        accuracy=accuracy(outcomes(share)),
        survived=outcomes(share),
        mean_distance=0.0731,
        unconfirmed=2,
        source_accuracy=share,
        forwards=21.5,
        backwards=20.0,
        seconds=12.3,
        adversarial=digest(f"adversarial {name}"),
    )


def model(name, role="candidate", *, clean=0.97, robust=0.6, **changes):
    attacks = [attack(each, min(1, robust + 0.01 * n)) for n, each in enumerate(KINDS)]
    curve = [0.0, 0.05, 0.1, 0.15]
    shares = [clean, (clean + robust) / 2, robust, robust / 2]
    fields = {
        "name": name,
        "role": role,
        "defenses": [{"name": "trades", "params": {"epochs": 5}}] if role == "candidate" else [],
        "due": ["white-box", "gradient-free"],
        "file": File(
            sha256=digest(name),
            bytes=412_345,
            precision="float32",
            opset=20,
            operators={"Conv": 4, "Relu": 4, "Gemm": 1},
            providers=["CPUExecutionProvider"],
            threads=1,
            optimization="basic",
        ),
        "export_parity": Parity(
            images=64, max_difference=2.1e-6, scale=11.2, agreement=1.0, near_ties=0
        ),
        "twin_parity": Parity(
            images=64, max_difference=0.0, scale=11.2, agreement=1.0, near_ties=0
        ),
        "clean": accuracy(outcomes(clean)),
        "correct": outcomes(clean),
        "attacks": attacks,
        "robust": accuracy(outcomes(robust)),
        "survived": outcomes(robust),
        "curve": [
            Point(eps=eps, accuracy=accuracy(outcomes(share)))
            for eps, share in zip(curve, shares, strict=True)
        ],
        "alarms": [
            alarm("gradient-free beats gradients", fired=False, value=0.004),
            alarm("zero gradients", fired=False, value=0.0),
        ],
        "latency": [
            Latency(batch=1, p50_ms=0.213, p95_ms=0.342),
            Latency(batch=32, p50_ms=2.31, p95_ms=3.18),
        ],
        "training_seconds": 83.4,
        "examples": [],
    }
    return Evidence(**{**fields, **changes})


def alarm(name, *, fired, value):
    return Alarm(
        name=name,
        fired=fired,
        value=value,
        limit=0.02,
        meaning="share of images where the blind attack succeeds and the informed one fails",
    )


def run(*models, name="digits", classes=None, shape=(1, 8, 8), eps=0.1, **changes):
    names = classes or [str(digit) for digit in range(10)]
    fields = {
        "name": name,
        "seed": 0,
        "config": {"name": name, "model": {"name": "small_cnn"}, "threat": {"eps": eps}},
        "threat": ThreatModel(norm="linf", eps=eps),
        "data": DataFacts(
            name="digits",
            sha256=digest("data"),
            training_sha256=digest("training"),
            test_sha256=digest("test"),
            shape=list(shape),
            classes=names,
            counts={"train": 1100, "validation": 197, "test": 500},
            checks={"duplicates across splits": 0, "range": [0.0, 1.0]},
        ),
        "images": IMAGES,
        "image_indices_sha256": digest("indices"),
        "environment": {"python": "3.11.9", "torch": "2.14.1"},
        "models": {each.name: each for each in models},
    }
    return RunEvidence(**{**fields, **changes})


def control(**changes):
    return model("control", "control", **{"clean": 0.98, "robust": 0.02, **changes})


def full(**changes):
    """Control, two candidates and a champion."""
    small = File(**{**model("x").file.model_dump(), "bytes": 112_300, "precision": "int8"})
    int8 = model(
        "tuned-int8",
        clean=0.96,
        robust=0.575,
        file=small.model_copy(update={"sha256": digest("int8")}),
        due=["white-box", "gradient-free", "transfer"],
        attacks=[
            *(attack(each, 0.58 + 0.01 * n) for n, each in enumerate(KINDS)),
            attack("apgd-ce-transfer", 0.61, kind="transfer", source="parent"),
        ],
    )
    champion = model("champion", "champion", clean=0.955, robust=0.47)
    return run(control(), model("tuned", clean=0.965, robust=0.595), int8, champion, **changes)


def gate(**limits):
    usual = {
        "clean_accuracy": 0.9,
        "robust_accuracy": 0.5,
        "max_clean_drop": 0.05,
        "min_robust_gain": 0.2,
        "max_latency_ms": 5,
    }
    return Gate(**{**usual, **limits})


def not_attacked(name="tuned-int8", **changes):
    """A candidate against which gradient-free and transfer attacks are due and did not run."""
    return model(
        name,
        due=["white-box", "gradient-free", "transfer"],
        attacks=[attack("apgd-ce", 0.873)],
        **{"robust": 0.865, **changes},
    )


def pictures(run_evidence, *, count=3, eps=0.1):
    """Seeded pictures for every model: a blob, and the blob with noise of size eps."""
    rng = torch.Generator().manual_seed(0)
    shape, classes = run_evidence.data.shape, len(run_evidence.data.classes)
    found = {}
    for name in run_evidence.models:
        found[name] = []
        for index in range(count):
            clean = torch.rand(shape, generator=rng)
            noise = torch.randint(0, 2, tuple(shape), generator=rng) * 2.0 - 1
            example = Example(
                index=7 * index,
                attack="apgd-ce",
                label=index % classes,
                clean_prediction=index % classes,
                clean_confidence=0.987,
                adversarial_prediction=(index + 3) % classes,
                adversarial_confidence=0.765,
            )
            found[name].append(Picture(example, clean, (clean + eps * noise).clamp(0, 1)))
    return found


@pytest.fixture
def made():
    return SimpleNamespace(
        alarm=alarm,
        attack=attack,
        control=control,
        full=full,
        gate=gate,
        model=model,
        not_attacked=not_attacked,
        outcomes=outcomes,
        pictures=pictures,
        run=run,
    )
