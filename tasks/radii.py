"""Steps that measure how far an adversary must go: the curve over eps, and nearest images."""

import json

import torch
from safetensors.torch import load as load_tensors
from torch import Tensor

from attacks.profiles import AttackSpec
from attacks.registry import ATTACKS
from hardening.data import Labelled
from hardening.evaluation import run_attack
from hardening.evidence import Distances
from hardening.radii import Radii, curve
from hardening.spec import bind, resolve
from hardening.threat import Norm, ThreatModel
from tasks.data import read_images
from tasks.step import Run, measured
from tasks.store import Artifact
from tasks.target import adapted, open_target, placed

CURVE_ATTACK = AttackSpec(name="apgd", params={"steps": 20, "loss": "dlr"})
"""What the curve is measured with; at eps itself the worst case over all attacks counts, too."""

NEAREST: dict[Norm, AttackSpec] = {
    "linf": AttackSpec(name="fmn", params={"steps": 100}),
    "l2": AttackSpec(name="ddn", params={"steps": 100}),
    "l1": AttackSpec(name="fmn", params={"steps": 100}),
    "l0": AttackSpec(name="fmn", params={"steps": 100}),
}
"""The minimum-norm attack that looks for the nearest adversarial image."""


@measured
def curve_file(
    run: Run,
    onnx: Artifact,
    no_twin: Artifact | None,
    images: Artifact,
    seen: Artifact,
    adversarial: tuple[Artifact, ...],
    /,
    *,
    shard: list[int],
    threat: ThreatModel,
    factors: list[float],
    seed: int,
) -> dict[str, bytes]:
    """Find the radius at which each image of a shard falls, among multiples of eps and unbounded.

    Without gradients what fell at eps itself is all that is known.

    Args:
        no_twin: Why the file has no gradients, if it has none.
        seen: What the file says of the clean images.
        adversarial: What fell at eps itself.
        shard: First image, and the one after the last.
    """
    data = read_images(run, images).test
    data = placed(data.take(torch.arange(len(data))[slice(*shard)]))
    session, target = open_target(run, onnx, no_twin, "gradients")
    correct = torch.tensor(json.loads(run.read(seen))["correct"])[slice(*shard)]
    known = _known(run, data, correct, adversarial, shard[0])
    unbounded = threat.unbounded(data.images.shape[1:]).eps / threat.eps
    falls_at = curve(
        adapted(session, bind(ATTACKS, CURVE_ATTACK)),
        target,
        session,
        data,
        known,
        threat,
        [*(f for f in factors if f < unbounded), unbounded] if target.differentiable else [],
        seed,
        run,
    )
    said = [None if value == float("inf") else value for value in falls_at.tolist()]
    return {"falls_at": json.dumps(said).encode()}


@measured
def nearest_file(
    run: Run,
    onnx: Artifact,
    no_twin: Artifact | None,
    images: Artifact,
    /,
    *,
    threat: ThreatModel,
    sample: int,
    seed: int,
) -> dict[str, bytes]:
    """Look for the nearest adversarial image of each of the first `sample` images.

    The output `fell` has the places of those that fall within the threat model.

    Args:
        no_twin: Why the file has no gradients, if it has none: then nothing is looked for.
    """
    data = placed(read_images(run, images).test)
    part = data.first(sample)
    session, target = open_target(run, onnx, no_twin, "gradients")
    spec = NEAREST[threat.norm]
    params = resolve(ATTACKS[spec.name], spec.params)
    if not target.differentiable:
        unknown = Distances(attack=spec.name, params=params, values=[None] * len(part))
        return {"distances": unknown.model_dump_json().encode(), "fell": b"[]"}
    outcome = run_attack(
        "nearest adversarial images",
        adapted(session, bind(ATTACKS, spec)),
        target,
        session,
        part,
        torch.arange(len(part)),
        threat.unbounded(part.images.shape[1:]),
        seed,
        run,
    )
    fooled: list[bool] = outcome.fooled.tolist()
    values = [
        round(value, 6) if found else None
        for value, found in zip(outcome.distance.tolist(), fooled, strict=True)
    ]
    found = Distances(attack=spec.name, params=params, values=values)
    near = outcome.fooled & threat.contains(part.floats().cpu(), outcome.x_adv)
    return {
        "distances": found.model_dump_json().encode(),
        "fell": json.dumps(near.nonzero()[:, 0].tolist()).encode(),
    }


def _known(
    run: Run, data: Labelled, correct: Tensor, adversarial: tuple[Artifact, ...], start: int
) -> Radii:
    x_adv = torch.zeros(data.images.shape, dtype=torch.float32)
    fell = torch.zeros(len(data), dtype=torch.bool)
    for artifact in adversarial:
        found = load_tensors(run.read(artifact))
        fell[found["index"] - start] = True
        x_adv[found["index"] - start] = found["x_adv"]
    return Radii(correct, fell, x_adv)
