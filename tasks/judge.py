"""Steps that put a run's evidence together, judge it and write the report. None measures."""

import json
from typing import Any

from pydantic import JsonValue
from safetensors.torch import load as load_tensors
from torch import Tensor

from hardening.consistency import contradiction
from hardening.errors import BrokenPromise
from hardening.evidence import Decision, Evidence, Example, RunEvidence
from hardening.report import claims
from hardening.report.page import Picture, render
from hardening.threat import ThreatModel
from hardening.verdict import Gate, Verdict, judge
from tasks.data import data_facts, read_images
from tasks.step import Run, step
from tasks.store import Artifact


@step
def assemble_run(
    run: Run,
    training: Artifact,
    test: Artifact,
    facts: Artifact,
    indices: Artifact,
    decision: Artifact | None,
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
        decision=Decision(**_json(run, decision)) if decision else None,
        models={model.name: model for model in found},
    )
    return {"evidence": evidence.model_dump_json(indent=1).encode()}


@step
def judge_run(run: Run, evidence: Artifact, /, *, gate: Gate) -> dict[str, bytes]:
    """The verdict, recomputable by anyone from the evidence and the gate.

    Raises:
        BrokenPromise: The evidence contradicts itself: an image is certified and fell, say.
    """
    measured = RunEvidence.model_validate_json(run.read(evidence))
    if wrong := contradiction(measured):
        raise BrokenPromise(f"evidence: {wrong}")
    verdict = judge(measured, gate)
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
    """One HTML page for a person, and the catalogue of the defenses if there are any."""
    measured = RunEvidence.model_validate_json(run.read(evidence))
    listed = {"catalogue": "catalogue.md"} if claims.rows(measured) else {}
    page = render(
        measured,
        gate,
        Verdict.model_validate_json(run.read(verdict)),
        _gallery(run, measured, images, adversarial),
        {"evidence": "evidence.json", "verdict": "verdict.json", "gate": "gate.json"}
        | listed
        | {f"{m.name} (ONNX)": f"{m.name}.onnx" for m in measured.models.values() if not m.ships},
    )
    made = {"report": page.encode()}
    return made | {name: claims.catalogue(measured).encode() for name in listed}


def _gallery(
    run: Run, measured: RunEvidence, images: Artifact, adversarial: tuple[Artifact, ...]
) -> dict[str, list[Picture]]:
    """Clean and adversarial pictures of every example."""
    by_digest = {artifact.sha256: artifact for artifact in adversarial}
    clean = read_images(run, images).test.floats()
    gallery = {}
    for name, model in measured.models.items():
        stored = {row.name: row.adversarial for row in model.attacks}
        gallery[name] = [
            Picture(example, clean[example.index], _fallen(run, by_digest, stored, example))
            for example in model.examples
        ]
    return gallery


def _fallen(
    run: Run,
    by_digest: dict[str, Artifact],
    stored: dict[str, list[str]],
    example: Example,
) -> Tensor:
    """The adversarial image (C, H, W) of an example, from whichever shard has it."""
    for digest in stored[example.attack]:
        found = load_tensors(run.read(by_digest[digest]))
        place = (found["index"] == example.index).nonzero()[:, 0]
        if len(place):
            return found["x_adv"][place[0]]
    raise LookupError(f"{example.attack}: no shard holds image {example.index}")


def _json(run: Run, artifact: Artifact) -> Any:
    return json.loads(run.read(artifact))
