"""The step that puts the measurements of one file together."""

import json
from typing import Any, Literal

from safetensors.torch import load as load_tensors

from defenses.quantization import DUE as QUANTIZED_DUE
from defenses.smoothing import mismatches
from hardening.alarms import Rounded, alarms
from hardening.checklist import checklist
from hardening.diagnosis.limits import Limits
from hardening.evidence import (
    Alarm,
    AttackRow,
    Certificate,
    Declared,
    Distances,
    Evidence,
    Example,
    File,
    Kind,
    Latency,
    Memory,
    Naive,
    Parity,
    Point,
    Survey,
)
from hardening.rows import Part, merge_all
from hardening.spec import Spec
from hardening.statistics import accuracy
from hardening.threat import ThreatModel
from tasks.data import read_images
from tasks.step import Run, step
from tasks.store import Artifact

EXAMPLES = 6
"""Adversarial images of each file that the report shows."""


@step
def collect_evidence(
    run: Run,
    images: Artifact,
    seen: Artifact,
    parent_no_twin: Artifact | None,
    shards: tuple[tuple[dict[str, Artifact], ...], ...],
    curves: tuple[Artifact, ...],
    nearest: dict[str, Artifact],
    diagnosed: dict[str, Artifact],
    surveys: tuple[Artifact, ...],
    certificates: tuple[Artifact, ...],
    naive: tuple[Artifact, ...],
    measured: Artifact,
    parity: Artifact | None,
    costs: tuple[Artifact, ...],
    /,
    *,
    name: str,
    role: Literal["control", "candidate", "champion"],
    defenses: list[Spec],
    declared: list[Declared],
    passes: float | None,
    due: list[Kind],
    parent_known: bool,
    ships: str,
    threat: ThreatModel,
    factors: list[float],
    limits: Limits,
    statements: dict[str, str],
) -> dict[str, bytes]:
    """Everything measured on one file, as Evidence.

    Args:
        parent_no_twin: Why no attack follows the gradients of the float parent, if none does.
        shards: Per shard of images and per attack, in the order they ran, what the attack made.
        parent_known: Whether a float file of its weights was there before the file.
    """
    clean, cost = _json(run, seen), _json(run, measured)
    falls_at = [value for curve in curves for value in _json(run, curve)]
    attacked = len(falls_at)
    correct = clean["correct"][:attacked]
    rows = merge_all([[_part(run, made) for made in parts] for parts in shards], correct)
    falls = [float("inf") if fall is None else fall for fall in falls_at]
    fallen = {image for row in rows for image in row.fell}
    probed = {place for made in (diagnosed, nearest) for place in _json(run, made["fell"])}
    survived = [
        right and image not in fallen and image not in probed and fall > 1
        for image, (right, fall) in enumerate(zip(correct, falls, strict=True))
    ]
    everything = threat.unbounded(read_images(run, images).test.images.shape[1:])
    proofs = [Certificate(**_json(run, made)) for made in certificates]
    sigmas = [proof.figures["sigma"] for proof in proofs if "sigma" in proof.figures]
    evidence = Evidence(
        name=name,
        role=role,
        defenses=[spec.model_dump() for spec in defenses],
        declared=declared,
        passes=passes,
        due=_due(due, File(**clean["file"])),
        ships=ships,
        file=File(**clean["file"]),
        export_parity=Parity(**_json(run, parity)) if parity else None,
        twin_parity=Parity(**clean["twin_parity"]) if clean["twin_parity"] else None,
        notes=_notes(run, clean, parent_known, parent_no_twin) + mismatches(defenses, sigmas),
        choices=[choice for cost in costs for choice in _json(run, cost)["choices"]],
        clean=accuracy(correct),
        correct=correct,
        attacks=rows,
        robust=accuracy(survived),
        survived=survived,
        probed=sorted(probed.intersection(i for i, right in enumerate(correct) if right) - fallen),
        falls_at=falls_at,
        curve=_curve(threat, everything, factors, survived, falls),
        distances=Distances(**_json(run, nearest["distances"])),
        surveys=[Survey(**_json(run, survey)) for survey in surveys],
        certificates=proofs,
        naive=[Naive(**row) for made in naive for row in _json(run, made)],
        alarms=_alarms(run, diagnosed, rows, attacked, limits),
        latency=[Latency(**entry) for entry in cost["latency"]],
        memory=Memory(**cost["memory"]) if cost["memory"] else None,
        training_seconds=round(sum(_json(run, cost)["seconds"] for cost in costs), 3),
        examples=_examples(run, images, clean, shards),
    )
    checked = evidence.model_copy(update={"checklist": checklist(evidence, threat, statements)})
    return {"evidence": checked.model_dump_json(indent=1).encode()}


def _due(due: list[Kind], file: File) -> list[Kind]:
    """What is due against this file: what rounds has no exact gradients, and int8 hides them."""
    if file.precision == "int8":
        known = {"white-box", *QUANTIZED_DUE}
        return [*QUANTIZED_DUE, *(kind for kind in due if kind not in known)]
    if not file.rounds or file.gradients in due:
        return due
    return [file.gradients if kind == "white-box" else kind for kind in due]


def _notes(
    run: Run, clean: dict[str, Any], parent_known: bool, parent_no_twin: Artifact | None
) -> list[str]:
    notes = [clean["no_twin"], "" if parent_known else clean["float_form"]]
    if parent_no_twin is not None:
        reason = run.read(parent_no_twin).decode()
        notes.append(f"its float parent leads no attack by gradients: {reason}")
    return [note for note in notes if note]


def _alarms(
    run: Run, diagnosed: dict[str, Artifact], rows: list[AttackRow], images: int, limits: Limits
) -> list[Alarm]:
    """What the rows say, and what was measured on a sample: the latter where both say something."""
    measured = [Alarm(**alarm) for alarm in _json(run, diagnosed["alarms"])]
    told = alarms(
        rows,
        images,
        radii=[Point(**point) for point in _json(run, diagnosed["radii"])],
        rounded=Rounded(
            sum(len(row.fell) for row in rows), sum(row.lost_in_8_bits for row in rows)
        ),
        limits=limits,
    )
    known = {alarm.name for alarm in measured}
    return [*measured, *(alarm for alarm in told if alarm.name not in known)]


def _part(run: Run, made: dict[str, Artifact]) -> Part:
    return Part(**_json(run, made["part"]))


def _curve(
    threat: ThreatModel,
    everything: ThreatModel,
    factors: list[float],
    survived: list[bool],
    falls_at: list[float],
) -> list[Point]:
    """Robust accuracy at 0, at each factor, at eps itself and unbounded, successes carried up."""
    falls = [
        fall if stands else min(fall, 1.0) for fall, stands in zip(falls_at, survived, strict=True)
    ]
    points = [
        Point(eps=threat.eps * factor, accuracy=accuracy([fall > factor for fall in falls]))
        for factor in sorted({0.0, 1.0, *factors})
        if threat.eps * factor < everything.eps
    ]
    last = accuracy([fall == float("inf") for fall in falls])
    return [*points, Point(eps=everything.eps, accuracy=last, unbounded=True)]


def _examples(
    run: Run,
    images: Artifact,
    clean: dict[str, Any],
    shards: tuple[tuple[dict[str, Artifact], ...], ...],
) -> list[Example]:
    """The first images that were right and fell, one of each class."""
    labels = read_images(run, images).test.labels
    found: dict[int, Example] = {}
    for made in (made for parts in shards for made in parts):
        part, fallen = _part(run, made), load_tensors(run.read(made["adversarial"]))
        # What ties with the label has fallen: another class is what is shown.
        places = fallen["index"].long()
        probabilities = fallen["logits"].softmax(1)
        right = labels[places][:, None]
        sure, said = probabilities.scatter(1, right, -1.0).max(1)
        answers = zip(places.tolist(), said.tolist(), sure.tolist(), strict=True)
        for index, prediction, confidence in answers:
            label = int(labels[index])
            if label not in found:
                found[label] = Example(
                    index=index,
                    attack=part.name,
                    label=label,
                    clean_prediction=clean["predictions"][index],
                    clean_confidence=clean["confidences"][index],
                    adversarial_prediction=prediction,
                    adversarial_confidence=confidence,
                )
    return [found[k] for k in sorted(found)][:EXAMPLES]


def _json(run: Run, artifact: Artifact) -> Any:
    return json.loads(run.read(artifact))
