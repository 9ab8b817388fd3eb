"""Strength and cost of our attacks and evaluations beside the published implementations.

All contestants get the same weights, images, eps and thread, one after the other in one process,
in an order drawn anew for every model. We attack the exported ONNX file, as the product does; the
peers attack the PyTorch module it was exported from. Every adversarial image is checked here, in
float32, by the module: outside the threat model it does not count.

    TEMPER_DATA=/path/to/data python -m benchmarks.attacks hardened --images 500
"""

import argparse
import random
import resource
import sys
import time
from collections.abc import Callable
from copy import deepcopy
from math import sqrt
from statistics import median
from typing import NamedTuple

import torch
from torch import Tensor

from attacks.profiles import PROFILES, AttackSpec, in_order, label
from attacks.registry import ATTACKS
from benchmarks import peers
from benchmarks.subjects import SUBJECTS, Subject, load
from hardening.attack import facts
from hardening.deployed import Counted, Deployed, bfloat16_is_faster
from hardening.deployment.session import Session
from hardening.deployment.twin import Twin
from hardening.evaluation import run_attack
from hardening.log import Silent
from hardening.spec import bind
from hardening.threat import ThreatModel

SINGLE = (
    AttackSpec(name="fgsm"),
    AttackSpec(name="pgd", params={"steps": 40, "loss": "ce"}),
    AttackSpec(name="apgd", params={"steps": 100, "loss": "ce"}),
    AttackSpec(name="apgd", params={"steps": 100, "loss": "dlr-targeted", "targets": 9}),
    AttackSpec(name="fab", params={"steps": 100, "targets": 9}),
    AttackSpec(name="square", params={"queries": 1000}),
    AttackSpec(name="fmn", params={"steps": 100}),
    AttackSpec(name="ddn", params={"steps": 100}),
    AttackSpec(name="deepfool", params={"steps": 50}),
    AttackSpec(name="cw", params={"searches": 5, "steps": 200}),
)


class Result(NamedTuple):
    """What a contestant left: adversarial images (N, ...) and what they cost."""

    x_adv: Tensor
    seconds: float
    forwards: float
    backwards: float


Contestant = Callable[[int], Result]


def ours(subject: Subject, specs: list[AttackSpec]) -> Contestant:
    """Our attacks as the evaluation runs them, each on what the ones before it left."""

    def run(seed: int) -> Result:
        begin = time.process_time()
        session = Session(subject.file, threads=torch.get_num_threads())
        twin, fast = Twin(subject.file), bfloat16_is_faster()
        x_adv, data = subject.images.floats().clone(), subject.images
        standing = _right(session, x_adv, data.labels).nonzero()[:, 0]
        forwards = backwards = 0
        for spec in specs:
            attack = bind(ATTACKS, spec)
            scores = fast and facts(attack).access == "scores"
            model = Deployed(session, twin, fast=fast, scores=scores)
            # On its own, a minimum-norm attack shows how near it gets.
            alone = facts(attack).minimal and len(specs) == 1
            threat = subject.threat.unbounded(x_adv.shape[1:]) if alone else subject.threat
            met, rest = standing[: spec.sample], standing[len(standing[: spec.sample]) :]
            while len(met):
                outcome = run_attack(
                    label(spec), attack, model, session, data, met, threat, seed, Silent()
                )
                x_adv[outcome.attacked] = outcome.x_adv
                standing = standing[~torch.isin(standing, outcome.fell)]
                forwards, backwards = forwards + outcome.forwards, backwards + outcome.backwards
                # Of a detector's sample one fell: the others follow.
                met, rest = (rest, rest[:0]) if outcome.fooled.any() else (rest[:0], rest)
        n = len(data)
        return Result(x_adv, time.process_time() - begin, forwards / n, backwards / n)

    return run


def theirs(subject: Subject, peer: peers.Peer) -> Contestant:
    """A peer's attack on the images the module gets right, in batches of 100."""

    def run(seed: int) -> Result:
        x, y = subject.images.floats(), subject.images.labels
        right = _right(subject.module, x, y).nonzero()[:, 0]
        # Some libraries leave a model in training mode: it must be nobody else's.
        counted = _Counting(deepcopy(subject.module)).eval()
        x_adv = x.clone()
        begin = time.process_time()
        for part in right.split(peers.BATCH):
            x_adv[part] = peer(counted, x[part], y[part], subject.threat, seed).detach()
        seconds = time.process_time() - begin
        n = len(x)
        return Result(x_adv, seconds, counted.counts.forwards / n, counted.counts.backwards / n)

    return run


class _Counting(torch.nn.Module):
    """A module around `Counted`, for libraries that ask for one."""

    def __init__(self, module: torch.nn.Module) -> None:
        super().__init__()
        self.module = module
        self.counts = Counted(module)

    def forward(self, x: Tensor) -> Tensor:
        return self.counts(x)


def contestants(subject: Subject, only: str, by: str) -> dict[tuple[str, str], Contestant]:
    """By attack and by whom; `only` restricts the attacks and `by` the libraries."""
    found: dict[tuple[str, str], Contestant] = {}
    for name, profile in PROFILES.items():
        specs = [spec for spec in in_order(profile.attacks) if spec.source == "file"]
        found[f"profile {name}", "temper"] = ours(subject, specs)
    found["profile full", "pyautoattack"] = theirs(subject, peers.standard)
    table = peers.single(subject.threat)
    for spec in SINGLE:
        if subject.threat.norm in facts(ATTACKS[spec.name]).norms:
            found[label(spec), "temper"] = ours(subject, [spec])
            for library, peer in table.get(label(spec), {}).items():
                found[label(spec), library] = theirs(subject, peer)
    return {key: run for key, run in found.items() if only in key[0] and by in key[1]}


def show(subject: Subject, key: tuple[str, str], result: Result) -> None:
    x, y = subject.images.floats(), subject.images.labels
    inside = subject.threat.distance(x, result.x_adv) <= subject.threat.eps * (1 + 1e-5)
    inside &= ((result.x_adv >= 0) & (result.x_adv <= 1)).flatten(1).all(1)
    fell = ~_right(subject.module, result.x_adv, y)
    clean = _right(subject.module, x, y)
    robust = float((clean & ~(fell & inside)).float().mean())
    distances = subject.threat.distance(x, result.x_adv)[clean & fell]
    middle = median(distances.tolist()) if len(distances) else float("nan")
    error = 2 * sqrt(robust * (1 - robust) / len(y))
    cells = f"{robust:>8.3f}{error:>7.3f}{result.seconds:>9.1f}{result.forwards:>9.1f}"
    print(f"{key[0]:<20}{key[1]:<14}{cells}{result.backwards:>9.1f}{middle:>9.4f}", flush=True)


@torch.no_grad()
def _right(model: Callable[[Tensor], Tensor], x: Tensor, y: Tensor) -> Tensor:
    return torch.cat([model(part) for part in x.split(100)]).argmax(1) == y


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("subjects", nargs="*", default=["digits"], choices=[*SUBJECTS])
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--norm", choices=["linf", "l2", "l1"], default="linf")
    parser.add_argument("--eps", type=float, help="default: the subject's (Linf)")
    parser.add_argument("--only", default="", help="attacks whose name has this in it")
    parser.add_argument("--by", default="", help="libraries whose name has this in it")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for name in options.subjects:
        subject = load(name, options.images)
        eps = options.eps or subject.threat.eps
        subject = subject._replace(threat=ThreatModel(norm=options.norm, eps=eps))
        right = _right(subject.module, subject.images.floats(), subject.images.labels)
        print(
            f"\n{name}: {options.images} images, {subject.threat}, clean {right.float().mean():.3f}"
        )
        heads = "".join(f"{head:>9}" for head in ("CPU s", "F", "B", "median d"))
        print(f"{'attack':<20}{'by':<14}{'robust':>8}{'2 SE':>7}{heads}")
        todo = [*contestants(subject, options.only, options.by).items()]
        random.Random(f"{name} {options.seed}").shuffle(todo)
        for key, run in todo:
            show(subject, key, run(options.seed))
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
