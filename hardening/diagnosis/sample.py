"""What every gate looks at: a sample of images, a model, and attacks to probe it with.

Shapes: n images of the sample, K classes.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from hardening.attack import Attack
from hardening.data import Labelled
from hardening.diagnosis.limits import Limits
from hardening.evaluation import generator, run_attack
from hardening.log import Log
from hardening.threat import Model, ThreatModel


class Probes(NamedTuple):
    """Attacks bound to their hyper-parameters, one per purpose.

    `fgsm` makes one step, `pgd` many. `apgd_ce` and `apgd_margin` differ in their loss alone.
    `apgd_long` has twice the iterations of the evaluation, `apgd_restarts` five restarts.
    `unbounded` is handed the whole pixel range, `noise` draws without looking.
    """

    fgsm: Attack
    pgd: Attack
    apgd_ce: Attack
    apgd_margin: Attack
    apgd_long: Attack
    apgd_restarts: Attack
    unbounded: Attack
    noise: Attack


class Sample(NamedTuple):
    """The model under diagnosis on n images; `judge` has the last word on what it gets right.

    `correct` and `survivors` (n,) bool say which images it gets right and which stood under all
    attacks. `exact_gradients` is false where the backward pass is a stand-in on purpose.
    `features` is what the binarisation test reads from: the model's logits or something deeper.
    `fallen` (n,) bool fills while the gates probe: images that any of them broke within the threat.
    """

    model: Model
    judge: Model
    images: Labelled
    correct: Tensor
    survivors: Tensor
    probes: Probes
    threat: ThreatModel
    seed: int
    limits: Limits
    log: Log
    exact_gradients: bool
    features: Model
    fallen: Tensor

    def rng(self, purpose: str) -> torch.Generator:
        """Random numbers for one purpose."""
        return generator(self.seed, "diagnosis", purpose)

    def falls(
        self, name: str, attack: Attack, where: Tensor, threat: ThreatModel | None = None
    ) -> Tensor:
        """Which images fall to `attack`, (n,) bool, of those `where` (n,) bool is true."""
        fallen = torch.zeros(len(self.images), dtype=torch.bool)
        places = where.nonzero()[:, 0]
        if not len(places):
            return fallen
        outcome = run_attack(
            f"diagnosis: {name}",
            attack,
            self.model,
            self.judge,
            self.images,
            places,
            self.threat if threat is None else threat,
            self.seed,
            self.log,
        )
        fallen[outcome.fell] = True
        if threat is None:
            self.fallen[outcome.fell] = True
        return fallen
