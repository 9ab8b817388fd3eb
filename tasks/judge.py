"""Steps that put measurements together, judge them and write the report. None of them measures."""

import json
from typing import Any, Literal

from pydantic import JsonValue
from safetensors.torch import load as load_tensors

from hardening.alarms import alarms
from hardening.evidence import (
    AttackRow,
    Evidence,
    Example,
    File,
    Kind,
    Latency,
    Parity,
    Point,
    RunEvidence,
)
from hardening.report.page import Picture, render
from hardening.spec import Spec
from hardening.statistics import accuracy
from hardening.threat import ThreatModel
from hardening.verdict import Gate, Verdict, judge
from tasks.data import data_facts, read_images
from tasks.step import Run, step
from tasks.store import Artifact

EXAMPLES = 6
"""Adversarial images of each file that the report shows."""


@step
def collect_evidence(
    run: Run,
    images: Artifact,
    seen: Artifact,
    falls_at: Artifact,
    latency: Artifact,
    parity: Artifact | None,
    rows: tuple[Artifact, ...],
    answers: tuple[Artifact, ...],
    costs: tuple[Artifact, ...],
    /,
    *,
    name: str,
    role: Literal["control", "candidate", "champion"],
    defenses: list[Spec],
    due: list[Kind],
    threat: ThreatModel,
    factors: list[float],
) -> dict[str, bytes]:
    """Everything measured on one file, as Evidence."""
    clean = _json(run, seen)
    table = [AttackRow.model_validate_json(run.read(row)) for row in rows]
    falls = [float("inf") if f is None else f for f in _json(run, falls_at)]
    # What fell at a smaller radius on the way to the curve is adversarial at eps, too.
    columns = zip(*(row.survived for row in table), [fall > 1 for fall in falls], strict=True)
    survived = [all(column) for column in columns]
    evidence = Evidence(
        name=name,
        role=role,
        defenses=[spec.model_dump() for spec in defenses],
        due=due,
        file=File(**clean["file"]),
        export_parity=Parity(**_json(run, parity)) if parity else None,
        twin_parity=Parity(**clean["twin_parity"]),
        clean=accuracy(clean["correct"]),
        correct=clean["correct"],
        attacks=table,
        robust=accuracy(survived),
        survived=survived,
        falls_at=_json(run, falls_at),
        curve=_curve(threat, factors, survived, falls),
        alarms=alarms(table, clean["zero_gradients"], clean["correct"]),
        latency=[Latency(**entry) for entry in _json(run, latency)],
        training_seconds=round(sum(_json(run, cost)["seconds"] for cost in costs), 3),
        examples=_examples(run, images, clean, table, answers),
    )
    return {"evidence": evidence.model_dump_json(indent=1).encode()}


@step
def assemble_run(
    run: Run,
    training: Artifact,
    test: Artifact,
    facts: Artifact,
    indices: Artifact,
    models: tuple[Artifact, ...],
    /,
    *,
    name: str,
    seed: int,
    config: dict[str, JsonValue],
    threat: ThreatModel,
    environment: dict[str, str],
) -> dict[str, bytes]:
    """The evidence of a whole run."""
    found = [Evidence.model_validate_json(run.read(model)) for model in models]
    evidence = RunEvidence(
        name=name,
        seed=seed,
        config=config,
        threat=threat,
        data=data_facts(_json(run, facts), {"training": training, "test": test}),
        images=found[0].clean.images,
        image_indices_sha256=indices.sha256,
        environment=environment,
        models={model.name: model for model in found},
    )
    return {"evidence": evidence.model_dump_json(indent=1).encode()}


@step
def judge_run(run: Run, evidence: Artifact, /, *, gate: Gate) -> dict[str, bytes]:
    """The verdict, recomputable by anyone from the evidence and the gate."""
    verdict = judge(RunEvidence.model_validate_json(run.read(evidence)), gate)
    return {"verdict": verdict.model_dump_json(indent=1).encode()}


@step
def write_report(
    run: Run,
    evidence: Artifact,
    verdict: Artifact,
    images: Artifact,
    adversarial: tuple[Artifact, ...],
    /,
    *,
    gate: Gate,
) -> dict[str, bytes]:
    """One HTML page for a person."""
    measured = RunEvidence.model_validate_json(run.read(evidence))
    page = render(
        measured,
        gate,
        Verdict.model_validate_json(run.read(verdict)),
        _gallery(run, measured, images, adversarial),
        {"evidence": "evidence.json", "verdict": "verdict.json", "gate": "gate.json"}
        | {f"{name} (ONNX)": f"{name}.onnx" for name in measured.models},
    )
    return {"report": page.encode()}


def _curve(
    threat: ThreatModel, factors: list[float], survived: list[bool], falls_at: list[float]
) -> list[Point]:
    """Robust accuracy at 0, at each factor and at eps itself, successes carried upward."""
    falls = [
        fall if stands else min(fall, 1.0) for fall, stands in zip(falls_at, survived, strict=True)
    ]
    return [
        Point(eps=threat.eps * factor, accuracy=accuracy([fall > factor for fall in falls]))
        for factor in sorted({0.0, 1.0, *factors})
    ]


def _examples(
    run: Run,
    images: Artifact,
    clean: dict[str, Any],
    rows: list[AttackRow],
    answers: tuple[Artifact, ...],
) -> list[Example]:
    """The first images that were right and fell, one class after the other."""
    labels = read_images(run, images).test.labels.tolist()
    found: dict[int, Example] = {}
    said = [_json(run, answer) for answer in answers]
    for index, right in enumerate(clean["correct"]):
        which = next((k for k, row in enumerate(rows) if right and not row.survived[index]), None)
        if which is None or labels[index] in found:
            continue
        found[labels[index]] = Example(
            index=index,
            attack=rows[which].name,
            label=labels[index],
            clean_prediction=clean["predictions"][index],
            clean_confidence=clean["confidences"][index],
            adversarial_prediction=said[which]["predictions"][index],
            adversarial_confidence=said[which]["confidences"][index],
        )
    return [found[k] for k in sorted(found)][:EXAMPLES]


def _gallery(
    run: Run, measured: RunEvidence, images: Artifact, adversarial: tuple[Artifact, ...]
) -> dict[str, list[Picture]]:
    by_digest = {artifact.sha256: artifact for artifact in adversarial}
    clean = read_images(run, images).test.floats()
    gallery = {}
    for name, model in measured.models.items():
        pictures = []
        for row in model.attacks:
            shown = [example for example in model.examples if example.attack == row.name]
            if shown:
                x_adv = load_tensors(run.read(by_digest[row.adversarial]))["x_adv"]
                pictures += [Picture(e, clean[e.index], x_adv[e.index]) for e in shown]
        gallery[name] = sorted(pictures, key=lambda picture: picture.example.label)
    return gallery


def _json(run: Run, artifact: Artifact) -> Any:
    return json.loads(run.read(artifact))
