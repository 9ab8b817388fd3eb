"""Steps that measure one exported file: clean, under attack, over eps, and how fast it is."""

import hashlib
import json

from safetensors.torch import save as save_tensors

from attacks import ATTACKS
from hardening.data import Labelled
from hardening.deployment.measure import latency
from hardening.deployment.parity import prove
from hardening.deployment.session import Session
from hardening.deployment.twin import Twin
from hardening.evaluation import (
    Deployed,
    all_logits,
    check_logits,
    curve,
    run_attack,
    zero_gradients,
)
from hardening.evidence import AttackRow, Kind
from hardening.spec import Spec, bind
from hardening.statistics import accuracy
from hardening.threat import ThreatModel
from tasks.data import device, read_images
from tasks.step import Run, measured
from tasks.store import Artifact


@measured
def inspect_file(run: Run, onnx: Artifact, images: Artifact, /) -> dict[str, bytes]:
    """Run the file on clean images and prove that its twin computes the same."""
    data, file = read_images(run, images), run.read(onnx)
    session, twin = Session(file), Twin(file).to(device())
    logits = all_logits(session, data.test)
    check_logits(run.label, logits, len(data.classes))
    parity = prove(f"{run.label}: twin", twin, session, data.test.floats())
    predictions = logits.argmax(1)
    seen = {
        "file": session.facts().model_dump(),
        "twin_parity": parity.model_dump(),
        "correct": (predictions == data.test.labels).tolist(),
        "predictions": predictions.tolist(),
        "confidences": logits.softmax(1).amax(1).tolist(),
        "zero_gradients": zero_gradients(twin, _placed(data.test)),
    }
    return {"seen": json.dumps(seen, allow_nan=False).encode()}


@measured
def attack_file(
    run: Run,
    onnx: Artifact,
    parent: Artifact | None,
    images: Artifact,
    /,
    *,
    name: str,
    attack: Spec,
    threat: ThreatModel,
    seed: int,
) -> dict[str, bytes]:
    """Run one attack on the file, or on its float parent and carry the images over."""
    data, file = read_images(run, images), run.read(onnx)
    session = Session(file)
    attacked = file if parent is None else run.read(parent)
    guide = session if parent is None else Session(attacked)
    source = Deployed(guide, Twin(attacked).to(device()))
    outcome = run_attack(
        name,
        bind(ATTACKS, attack, "evaluation.attacks"),
        source,
        session,
        _placed(data.test),
        threat,
        seed,
        run,
    )
    adversarial = save_tensors({"x_adv": outcome.x_adv})
    logits = all_logits(session, Labelled(outcome.x_adv, data.test.labels))
    correct = accuracy(outcome.survived.tolist())
    fallen = ~outcome.survived & (outcome.distance > 0)
    row = AttackRow(
        name=name,
        attack=attack.name,
        params=attack.params,
        source="file" if parent is None else "parent",
        kind=_kind(parent is not None, outcome.backwards, session.facts().precision),
        accuracy=correct,
        survived=outcome.survived.tolist(),
        mean_distance=float(outcome.distance[fallen].mean()) if fallen.any() else None,
        unconfirmed=outcome.unconfirmed,
        source_accuracy=float(outcome.stands_on_source.float().mean()),
        source_survived=outcome.stands_on_source.tolist(),
        forwards=outcome.forwards / len(data.test),
        backwards=outcome.backwards / len(data.test),
        seconds=round(run.seconds, 3),
        adversarial=hashlib.sha256(adversarial).hexdigest(),
    )
    run.line(f"{correct.value:.1%} of {correct.images} images stand")
    answers = {
        "predictions": logits.argmax(1).tolist(),
        "confidences": logits.softmax(1).amax(1).tolist(),
    }
    return {
        "row": row.model_dump_json().encode(),
        "answers": json.dumps(answers).encode(),
        "adversarial": adversarial,
    }


@measured
def curve_file(
    run: Run,
    onnx: Artifact,
    images: Artifact,
    /,
    *,
    threat: ThreatModel,
    factors: list[float],
    seed: int,
) -> dict[str, bytes]:
    """Find the radius at which each image falls, among multiples of eps."""
    data, file = read_images(run, images), run.read(onnx)
    session = Session(file)
    source = Deployed(session, Twin(file).to(device()))
    attack = bind(ATTACKS, CURVE_ATTACK)
    falls_at = curve(attack, source, session, _placed(data.test), threat, tuple(factors), seed, run)
    known = [None if value == float("inf") else value for value in falls_at.tolist()]
    return {"falls_at": json.dumps(known).encode()}


@measured
def measure_file(run: Run, onnx: Artifact, images: Artifact, /) -> dict[str, bytes]:
    """Time the file as one thread of this machine runs it."""
    data = read_images(run, images)
    channels, height, width = data.test.images.shape[1:]
    measured = latency(Session(run.read(onnx)), (channels, height, width))
    return {"latency": json.dumps([entry.model_dump() for entry in measured]).encode()}


CURVE_ATTACK = Spec(name="apgd", params={"steps": 20, "loss": "dlr"})
"""What the curve is measured with; at eps itself the worst case over all attacks counts, too."""


def _kind(transferred: bool, backwards: int, precision: str) -> Kind:
    """How the attack got at the file, as seen: one that asked for no gradient is gradient-free."""
    if transferred:
        return "transfer"
    if backwards == 0:
        return "gradient-free"
    return "straight-through" if precision == "int8" else "white-box"


def _placed(images: Labelled) -> Labelled:
    place = device()
    return Labelled(images.images.to(place), images.labels.to(place))
