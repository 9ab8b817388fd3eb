"""The step that looks for masked gradients on a sample of the images."""

import json
from typing import NamedTuple

import torch
from torch import Tensor

from attacks.registry import ATTACKS
from hardening.alarms import above_parent
from hardening.attack import Attack
from hardening.data import Labelled
from hardening.diagnosis.catalogue import alarm, not_run
from hardening.diagnosis.diagnose import DIAGNOSED, diagnose
from hardening.diagnosis.limits import Limits
from hardening.diagnosis.sample import Probes
from hardening.evaluation import Outcome, all_stand, run_attack
from hardening.evidence import QUANTIZED, Alarm, Point
from hardening.inside import Inside
from hardening.spec import Spec, bind
from hardening.statistics import accuracy
from hardening.threat import ThreatModel
from tasks.data import read_images
from tasks.step import Run, measured
from tasks.store import Artifact
from tasks.target import Opened, adapted, open_exact, placed

RADII = (0.5, 1.0, 2.0)
"""Multiples of eps attacked each on its own: the accuracy may only fall (G9)."""

UNSURE = frozenset({"G1", "G3", "G6", "G17"})
"""Gates that take it for granted that an image has one answer: of a random model they say nothing.
"""

RANDOM = "the model is random on purpose"


@measured
def diagnose_file(
    run: Run,
    onnx: Artifact,
    no_twin: Artifact | None,
    parent: Artifact | None,
    images: Artifact,
    standing: tuple[Artifact, ...],
    parent_standing: tuple[Artifact, ...],
    /,
    *,
    threat: ThreatModel,
    gates: list[str],
    sample: int,
    attacked: int,
    steps: int,
    limits: Limits,
    seed: int,
) -> dict[str, bytes]:
    """Run the gates on the first `sample` images; those that are left out are listed, too.

    What stood under all attacks and falls to a probe has fallen: the output `fell` has its places.
    All are left out for a file without gradients: it is not evaluated anyway.

    Args:
        no_twin: Why the file has no gradients, if it has none.
        parent: The float file of the weights that a quantized file has, where it is known.
        standing: Per shard, the places that stand after all attacks.
        parent_standing: The same of the parent, where the run evaluates it too.
        attacked: Images that the evaluation attacked, at least `sample`.
        steps: Iterations of the evaluation's longest attack: G12 doubles them.
    """
    data = placed(read_images(run, images).test)
    part = data.first(sample)
    stands = _places(run, standing)
    survivors = torch.tensor([place in stands for place in range(len(part))])
    session, target = open_exact(run, onnx, no_twin)
    if not target.differentiable:
        listed = [not_run(gate, limits).model_dump() for gate in DIAGNOSED]
        return {"alarms": json.dumps(listed).encode(), "radii": b"[]", "fell": b"[]"}
    probes = Probes(*(adapted(session, probe) for probe in _probes(steps)))
    moot = dict.fromkeys(sorted(UNSURE), RANDOM) if target.draws > 1 else {}
    if isinstance(session, Inside) and session.form.rejects:
        moot["G19"] = "to be rejected is no class: see the model without its detector"
    found, fallen = diagnose(
        target,
        part,
        survivors,
        probes,
        threat,
        seed,
        limits,
        [gate for gate in gates if gate not in moot],
        run,
        exact_gradients=not session.facts().rounds,
        judge=session,
    )
    case = _Case(run, (session, target), part, probes, threat, seed)
    if session.facts().precision in QUANTIZED:
        if parent is not None and not parent_standing:
            entry, led = _beside_parent(case, parent, survivors & ~fallen, limits)
            fallen |= led
        else:
            kept = None if parent is None else _places(run, parent_standing)
            entry = _evaluated_alike(stands, kept, attacked, limits)
        found.append(entry)
    found += [not_run(gate, limits) for gate in DIAGNOSED if gate not in {*gates, *moot}]
    found += [not_run(gate, limits, why) for gate, why in moot.items()]
    radii, fallen_there = _by_radius(case)
    fallen |= fallen_there
    return {
        "fell": json.dumps((fallen & survivors).nonzero()[:, 0].tolist()).encode(),
        "alarms": json.dumps([alarm.model_dump() for alarm in found]).encode(),
        "radii": json.dumps([point.model_dump() for point in radii]).encode(),
    }


class _Case(NamedTuple):
    """The sample of a file, and how it is attacked."""

    run: Run
    opened: Opened
    part: Labelled
    probes: Probes
    threat: ThreatModel
    seed: int

    def attack(self, name: str, attack: Attack, opened: Opened, standing: Tensor) -> Outcome:
        """Attack what was opened where it stands, (n,) bool; what falls stands there no more."""
        session, model = opened
        judged = session, self.part, standing.nonzero()[:, 0]
        outcome = run_attack(name, attack, model, *judged, self.threat, self.seed, self.run)
        standing[outcome.fell] = False
        return outcome


def _by_radius(case: _Case) -> tuple[list[Point], Tensor]:
    """The accuracy at each of `RADII`, and which images fell at one within eps, (n,) bool."""
    radii, fallen = [], torch.zeros(len(case.part), dtype=torch.bool)
    for factor in RADII:
        at = case._replace(threat=case.threat.scaled(factor))
        standing = all_stand(case.opened[0], case.part)
        name = f"eps {at.threat.eps:.3g}"
        outcome = at.attack(name, case.probes.apgd_margin, case.opened, standing)
        radii.append(Point(eps=at.threat.eps, accuracy=accuracy(standing.tolist())))
        if factor <= 1:
            fallen[outcome.fell] = True
    return radii, fallen


def _evaluated_alike(
    stands: set[int], kept: set[int] | None, attacked: int, limits: Limits
) -> Alarm:
    """What stands of a quantized file beside what its float parent kept in the same run, if any."""
    if kept is None:
        return alarm("int8", None, 0, limits, "no float32 file of its weights is in this run")
    return above_parent(len(stands), len(kept), attacked, "evaluated alike", limits)


def _beside_parent(
    case: _Case, parent: Artifact, survivors: Tensor, limits: Limits
) -> tuple[Alarm, Tensor]:
    """The same where the run does not evaluate the parent: it meets three attacks here.

    And which of the points that these looked at fool the file, (n,) bool: else it would be called
    harder than its parent only because less was tried against it.
    """
    opened = open_exact(case.run, parent, None)
    standing = all_stand(opened[0], case.part)
    led = torch.zeros_like(standing)
    for attack in (case.probes.apgd_ce, case.probes.apgd_margin, case.probes.apgd_restarts):
        if not standing.any():
            break
        outcome = case.attack("float parent", attack, opened, standing)
        met = case.part.take(outcome.attacked.to(case.part.labels.device))
        moved = Labelled(outcome.x_adv.to(case.part.images.device), met.labels)
        led[outcome.attacked] |= ~all_stand(case.opened[0], moved)
    kept = int((survivors & ~led).sum()), int(standing.sum())
    return above_parent(*kept, len(case.part), "attacked by three attacks", limits), led


def _places(run: Run, standing: tuple[Artifact, ...]) -> set[int]:
    return {place for shard in standing for place in json.loads(run.read(shard))}


def _probes(steps: int) -> Probes:
    return Probes(
        fgsm=bind(ATTACKS, Spec(name="fgsm")),
        pgd=bind(ATTACKS, Spec(name="pgd", params={"steps": 40})),
        apgd_ce=_apgd(steps=30, loss="ce"),
        apgd_margin=_apgd(steps=30, loss="margin"),
        apgd_long=_apgd(steps=2 * steps, loss="dlr"),
        apgd_restarts=_apgd(steps=30, loss="dlr", restarts=5),
        unbounded=_apgd(steps=50, loss="margin"),
        noise=bind(ATTACKS, Spec(name="noise")),
    )


def _apgd(**params: int | str) -> Attack:
    return bind(ATTACKS, Spec(name="apgd", params=dict(params)))
