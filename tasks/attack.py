"""The step that runs one attack on one file and one shard of the images."""

import hashlib
import json

import torch
from safetensors.torch import save as save_tensors
from torch import Tensor

from attacks.cost import cost, starts
from attacks.gradient import draws
from attacks.profiles import AttackSpec, kind
from attacks.registry import ATTACKS
from attacks.universal import fooling_rates
from hardening.attack import facts
from hardening.data import Labelled
from hardening.deployed import Deployed
from hardening.deployment.session import Session
from hardening.evaluation import Outcome, all_logits, all_stand, generator, joined, run_attack
from hardening.evidence import Disagreement, Fooling
from hardening.inside import Inside
from hardening.rows import Part
from hardening.spec import bind, resolve
from hardening.threat import Model, ThreatModel
from tasks.data import read_images
from tasks.step import Run, measured
from tasks.store import Artifact
from tasks.target import adapted, led_by, open_target, placed, wrapped


@measured
def attack_file(
    run: Run,
    onnx: Artifact,
    no_twin: Artifact | None,
    sources: tuple[Artifact, ...],
    images: Artifact,
    standing: Artifact,
    /,
    *,
    name: str,
    attack: AttackSpec,
    shard: list[int],
    threat: ThreatModel,
    seed: int,
) -> dict[str, bytes]:
    """Attack those of the images `shard[0]:shard[1]` that still stand.

    Args:
        no_twin: Why the attacked file has no gradients, if it has none.
        sources: The files whose gradients lead; none: the attacked file's own.
        standing: Places of the images that stand: the clean ones that are right, or what the
            attack before this one left.
    """
    data = placed(read_images(run, images).test)
    bound = bind(ATTACKS, attack, "evaluation.attacks")
    said = facts(bound)
    session, target = open_target(run, onnx, no_twin, said.access)
    bound = adapted(session, bound)
    led = led_by(run, target, sources, differential=said.differential)
    model = wrapped(led, attack.through, "evaluation.attacks")
    whole = torch.arange(*shard)[: max(len(data) - shard[0], 0)]
    before = [place for place in json.loads(run.read(standing)) if shard[0] <= place < shard[1]]
    budget = cost(attack, threat)

    # Rounding to bfloat16 is no disagreement of twin and file: the exact twin is asked in the end.
    leader = model if sources else wrapped(Deployed(session, target.twin), attack.through, "")
    passes = budget.forwards * draws(model)
    seen = _through(session, attack, led=bool(sources))

    def attempt(places: Tensor) -> Outcome:
        return run_attack(
            name, bound, model, session, data, places, threat, seed, run, passes, leader
        )

    everything = said.whole or said.differential
    first, rest = _sample(whole if everything else torch.tensor(before), attack, seed, name)
    outcome = attempt(first)
    if len(rest) and outcome.fooled.any():
        outcome, rest = joined(outcome, attempt(rest)), rest[:0]
    fell = outcome.fooled & torch.isin(outcome.attacked, torch.tensor(before, dtype=torch.long))
    adversarial = _packed(session, data, outcome, fell)
    part = Part(
        name=name,
        attack=attack.name,
        params=resolve(ATTACKS[attack.name], attack.params),
        source=attack.source,
        through=[wrapper.model_dump() for wrapper in seen.through],
        kind=kind(seen, session.facts().gradients),
        attacked=len(outcome.attacked),
        sampled=len(rest) > 0,
        fell=outcome.attacked[fell].tolist(),
        step=_steps(outcome.step[fell], budget.forwards),
        distance=outcome.distance[fell].tolist(),
        # What leads inside this process is what judges: there is nobody to confirm.
        unconfirmed=0 if isinstance(session, Inside) else outcome.unconfirmed,
        lost_in_8_bits=_lost(session, data, outcome, fell),
        fooling=_fooling(attack, session, data, outcome, threat, seed),
        disagreement=_disagreement(run, sources[0], session, data, outcome)
        if said.differential
        else None,
        forwards=outcome.forwards,
        backwards=outcome.backwards,
        budget_forwards=budget.forwards,
        budget_backwards=budget.backwards,
        starts=starts(attack),
        seconds=round(run.seconds, 3),
        adversarial=hashlib.sha256(adversarial).hexdigest(),
    )
    left = sorted({*before}.difference(part.fell))
    run.line(f"{len(left)} of {len(whole)} images stand")
    return {
        "part": part.model_dump_json().encode(),
        "standing": json.dumps(left).encode(),
        "adversarial": adversarial,
    }


def _through(session: Session | Inside, attack: AttackSpec, *, led: bool) -> AttackSpec:
    """The attack with all wrappers that it goes through, those of the attacked model first."""
    own = session.through(led=led) if isinstance(session, Inside) else []
    return attack.model_copy(update={"through": [*own, *attack.through]})


def _sample(places: Tensor, attack: AttackSpec, seed: int, name: str) -> tuple[Tensor, Tensor]:
    """A detector's sample and the rest; everything and nothing for an attack that is none."""
    places = places.long()
    if attack.sample is None or attack.sample >= len(places):
        return places, places[:0]
    rng = generator(seed, name, "sample")
    mixed = places[torch.randperm(len(places), generator=rng)]
    return mixed[: attack.sample].sort().values, mixed[attack.sample :].sort().values


def _steps(step: Tensor, budget: int) -> list[int]:
    """When each fell; at the end where the session alone is fooled: the search did not see it."""
    return torch.where(step < 0, budget, step).clamp(min=1).tolist()


def _packed(session: Model, data: Labelled, outcome: Outcome, fell: Tensor) -> bytes:
    """The images that fell: where, what they became, and what the file says of them."""
    places, x_adv = outcome.attacked[fell], outcome.x_adv[fell]
    answers = (
        all_logits(session, Labelled(x_adv, data.labels[places.to(data.labels.device)]))
        if len(places)
        else torch.zeros(0, 2)
    )
    return save_tensors({"index": places, "x_adv": x_adv.contiguous(), "logits": answers})


def _lost(session: Model, data: Labelled, outcome: Outcome, fell: Tensor) -> int:
    """How many of the images that fell are classified rightly again once rounded to 8 bits."""
    if not fell.any():
        return 0
    labels = data.labels[outcome.attacked[fell].to(data.labels.device)]
    rounded = (outcome.x_adv[fell] * 255).round() / 255
    return int(all_stand(session, Labelled(rounded, labels)).sum())


def _disagreement(
    run: Run, parent: Artifact, session: Model, data: Labelled, outcome: Outcome
) -> Disagreement:
    """How often the file errs where the file it was made from does not, and other labels."""
    parent_session = Session(run.read(parent))
    clean = data.take(outcome.attacked.to(data.labels.device))
    moved = Labelled(outcome.x_adv.to(data.images.device), clean.labels)
    labels = [all_logits(file, clean).argmax(1) for file in (session, parent_session)]
    right = all_stand(parent_session, moved)
    return Disagreement(
        parent=parent.sha256,
        images=len(outcome.attacked),
        flips=int((labels[0] != labels[1]).sum()),
        evasive=int((outcome.fooled & right).sum()),
    )


def _fooling(
    attack: AttackSpec,
    session: Model,
    data: Labelled,
    outcome: Outcome,
    threat: ThreatModel,
    seed: int,
) -> Fooling | None:
    """What one perturbation for all images that are right does to labels, beside random noise."""
    if attack.name != "universal":
        return None
    met = data.take(outcome.attacked.to(data.labels.device))
    # The attack leaves an image that is wrong as it is alone: it cannot be fooled.
    right = all_stand(session, met)
    x = met.floats()[right.to(data.labels.device)]
    x_adv = outcome.x_adv[right].to(x.device)
    return fooling_rates(session, x, x_adv, threat, generator(seed, "fooling"))
