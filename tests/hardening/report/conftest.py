"""Evidence built by hand: complete, small, and of any shape a test asks for."""

import hashlib
from types import SimpleNamespace

import pytest
import torch

from hardening.checklist import checklist
from hardening.diagnosis import catalogue
from hardening.diagnosis.limits import Limits
from hardening.evidence import (
    AttackRow,
    Certificate,
    DataFacts,
    Decision,
    Distances,
    Evidence,
    Example,
    File,
    Fooling,
    Latency,
    Parity,
    Point,
    RunEvidence,
    Survey,
)
from hardening.report.pictures import Picture
from hardening.statistics import accuracy
from hardening.threat import ThreatModel
from hardening.verdict import Gate

IMAGES = 200
KINDS = {
    "apgd-ce": "white-box",
    "apgd-dlr": "white-box",
    "transfer from control": "transfer",
    "square": "gradient-free",
}
FAMILIES = (
    "gaussian_noise", "shot_noise", "impulse_noise", "defocus_blur", "glass_blur", "motion_blur",
    "zoom_blur", "snow", "frost", "fog", "brightness", "contrast", "elastic_transform", "pixelate",
    "jpeg_compression",
)  # fmt: skip
DUE = ["white-box", "gradient-free"]
BUDGETS = {"white-box": (101, 100), "transfer": (50, 50), "gradient-free": (501, 0)}


def digest(text):
    return hashlib.sha256(text.encode()).hexdigest()


def outcomes(share):
    """The first images stay correct: so any two models' outcomes are nested."""
    return [index < round(share * IMAGES) for index in range(IMAGES)]


def attack(name, before, after, **changes):
    """The row of an attack that lowered the accuracy from one share to another."""
    kind = changes.get("kind", KINDS.get(name, "white-box"))
    forwards, backwards = BUDGETS[kind]
    fell = [*range(round(after * IMAGES), round(before * IMAGES))]
    fields = {
        "name": name,
        "attack": name.split("-")[0].split(" ")[0],
        "params": {"steps": 20, "loss": "ce"},
        "source": "parent" if kind == "transfer" else "file",
        "kind": kind,
        "accuracy": accuracy(outcomes(after)),
        "attacked": round(before * IMAGES),
        "sampled": False,
        "fell": fell,
        # Most fall at once, the last one at half the budget.
        "step": [1 + int(forwards / 2 * (n / len(fell)) ** 4) for n in range(len(fell))],
        "distance": [0.0731] * len(fell),
        "unconfirmed": 2,
        "lost_in_8_bits": 1,
        "forwards": 21.5,
        "backwards": 20.0,
        "budget_forwards": forwards,
        "budget_backwards": backwards,
        "seconds": 12.3,
        "adversarial": [digest(f"adversarial {name}")],
    }
    return AttackRow(**{**fields, **changes})


def cascade(clean, **shares):
    """Rows one after the other, by what stands after each; `_` in a name is a blank or a dash."""
    rows, before = [], clean
    for key, after in shares.items():
        name = next(each for each in KINDS if each.replace(" ", "_").replace("-", "_") == key)
        rows.append(attack(name, before, after))
        before = after
    return rows


def falls(correct, survived):
    """At eps itself, all of them that fell."""
    return [None if s else 1.0 if c else 0.0 for c, s in zip(correct, survived, strict=True)]


def model(name, role="candidate", *, clean=0.97, robust=0.6, **changes):
    shares = {"apgd_ce": min(clean, robust + 0.02), "apgd_dlr": min(clean, robust + 0.01)}
    curve = [0.0, 0.05, 0.1, 0.15]
    on_it = [clean, (clean + robust) / 2, robust, robust / 2]
    fields = {
        "name": name,
        "role": role,
        "defenses": [{"name": "trades", "params": {"epochs": 5}}] if role == "candidate" else [],
        "due": DUE,
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
        "attacks": cascade(clean, **shares, square=robust),
        "robust": accuracy(outcomes(robust)),
        "survived": outcomes(robust),
        "falls_at": falls(outcomes(clean), outcomes(robust)),
        "curve": [
            *(
                Point(eps=eps, accuracy=accuracy(outcomes(share)))
                for eps, share in zip(curve, on_it, strict=True)
            ),
            Point(eps=1.0, accuracy=accuracy(outcomes(0)), unbounded=True),
        ],
        "alarms": [alarm("gradient_free", 0.0), alarm("zero_gradients", 0.0)],
        "latency": [
            Latency(batch=1, p50_ms=0.213, p95_ms=0.342),
            Latency(batch=32, p50_ms=2.31, p95_ms=3.18),
        ],
        "training_seconds": 83.4,
        "examples": [],
    }
    return Evidence(**{**fields, **changes})


def alarm(key, value, *, images=128, detail=""):
    """An alarm of the catalogue at its default limit."""
    return catalogue.alarm(key, value, images, Limits(), detail)


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
        due=[*DUE, "transfer"],
        attacks=cascade(
            0.96, apgd_ce=0.6, apgd_dlr=0.59, transfer_from_control=0.585, square=0.575
        ),
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
    clean, robust = changes.pop("clean", 0.97), changes.pop("robust", 0.865)
    attacks = cascade(clean, apgd_ce=robust)
    due = [*DUE, "transfer"]
    return model(name, clean=clean, robust=robust, **{"due": due, "attacks": attacks, **changes})


def everything():
    """Control and two candidates with all that an evaluation can leave behind."""
    tuned = model(
        "tuned",
        clean=0.965,
        robust=0.595,
        attacks=[
            *cascade(0.965, apgd_ce=0.62, apgd_dlr=0.605),
            attack(
                "fab", 0.605, 0.605, kind="white-box", attacked=50, sampled=True, adversarial=[]
            ),
            attack(
                "universal", 0.605, 0.6, fooling=Fooling(images=500, universal=0.213, noise=0.031)
            ),
            attack("square", 0.6, 0.595),
        ],
        alarms=alarms(masked=False),
        **additions(0.93, 0.12),
    )
    masked = model(
        "tuned-int8", clean=0.96, robust=0.575, alarms=alarms(masked=True), **additions(0.9, 0.11)
    )
    decision = Decision(limit=0.5, error=0.01, images=IMAGES, of=1000, models={"tuned": "above"})
    models = (control(**additions(0.95, 0.02)), tuned, masked)
    return run(*map(checked, models), decision=decision)


def checked(evidence):
    """`evidence` with its checklist, of which the user stated one item."""
    stated = {"prior work": "nobody attacked these digits before"}
    items = checklist(evidence, ThreatModel(norm="linf", eps=0.1), stated)
    return evidence.model_copy(update={"checklist": items})


def alarms(*, masked):
    """One of each gate: quiet, fired where the model is `masked`, or not applicable."""
    fired = {"zero_gradients": 0.31, "unbounded": 0.043} if masked else {}
    quiet = dict.fromkeys(catalogue.GATES, 0.0) | {"losses": 0.0234, "rounding": 0.12}
    missing = {"int8": "not a quantized file", "transfer": "no transfer attack ran"}
    return [
        alarm(key, None if key in missing else fired.get(key, value), detail=missing.get(key, ""))
        for key, value in quiet.items()
    ]


def additions(share, near):
    """Distances, surveys and certificates of a model."""
    return {
        "distances": Distances(
            attack="fmn",
            params={"steps": 100},
            values=[0.0, 0.0, None, *(near * (0.2 + n / 30) for n in range(61))],
        ),
        "surveys": [corruptions(share), spatial(share)],
        "certificates": [certificate("file", near / 4), certificate("smoothed classifier", 0.7)],
    }


def corruptions(share):
    conditions = {
        f"{family} {severity}": accuracy(outcomes(share * (1 - n * severity / 90)))
        for n, family in enumerate(FAMILIES)
        for severity in range(1, 6)
    }
    return Survey(survey="corruptions", params={}, conditions=conditions, seconds=9.1)


def spatial(share):
    names = ("rotation", "translation", "worst of 10", "worst of grid")
    conditions = {name: accuracy(outcomes(share - n / 5)) for n, name in enumerate(names)}
    return Survey(survey="spatial", params={"degrees": 20}, conditions=conditions, seconds=3.2)


def certificate(subject, share, **changes):
    fields = {
        "method": "interval" if subject == "file" else "smoothing",
        "subject": subject,
        "text": f"proven of the {subject} for every point of linf eps 0.1",
        "norm": "linf",
        "eps": 0.1,
        "certified": outcomes(share),
        "abstained": [not proven for proven in outcomes(share)],
        "accuracy": accuracy(outcomes(share)),
        "radius_norm": "linf" if subject == "file" else "l2",
        "radii": [0.1 * proven for proven in outcomes(share)],
        "figures": {"sigma": 0.25, "n": 1000.0},
    }
    return Certificate(**{**fields, **changes})


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


@pytest.fixture(scope="session")
def made():
    return SimpleNamespace(
        additions=additions,
        alarm=alarm,
        attack=attack,
        cascade=cascade,
        certificate=certificate,
        control=control,
        everything=everything,
        full=full,
        gate=gate,
        model=model,
        not_attacked=not_attacked,
        outcomes=outcomes,
        pictures=pictures,
        run=run,
    )
