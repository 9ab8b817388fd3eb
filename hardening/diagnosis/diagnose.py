"""Run the gates on a sample."""

from collections.abc import Callable, Collection
from typing import NamedTuple

import torch
from torch import Tensor

from hardening.data import Labelled
from hardening.diagnosis.answers import batch, determinism, probabilities, state
from hardening.diagnosis.backdoor import backdoor
from hardening.diagnosis.binarisation import unsolved
from hardening.diagnosis.effort import convergence, one_step, restarts, unbounded
from hardening.diagnosis.gradients import finite_differences, zero_gradients
from hardening.diagnosis.limits import Limits
from hardening.diagnosis.rivals import losses, noise
from hardening.diagnosis.sample import Probes, Sample
from hardening.evaluation import all_stand
from hardening.evidence import Alarm
from hardening.log import Log
from hardening.spec import look_up
from hardening.threat import Model, ThreatModel

DIAGNOSED: dict[str, Callable[[Sample], Alarm]] = {
    "G1": determinism,
    "G2": state,
    "G3": batch,
    "G4": probabilities,
    "G5": zero_gradients,
    "G6": finite_differences,
    "G7": one_step,
    "G8": unbounded,
    "G12": convergence,
    "G13": restarts,
    "G14": losses,
    "G15": noise,
    "G17": unsolved,
    "G19": backdoor,
}
"""The gates that need the model itself; those that read the attacks' rows are in `alarms`.

G1 to G6 cost some passes over the sample; G7, G8 and G14 an attack on it or two; G12, G13 and G15
attacks on its survivors, G15 by thousands of forward passes; G17 about 1,000 a problem; G19
by 300 forward and backward passes of 64 images a class.
"""


class Diagnosis(NamedTuple):
    """The alarms, and which of the n images a probe broke within the threat, (n,) bool."""

    alarms: list[Alarm]
    fallen: Tensor


def diagnose(
    model: Model,
    images: Labelled,
    survivors: Tensor,
    probes: Probes,
    threat: ThreatModel,
    seed: int,
    limits: Limits,
    gates: Collection[str],
    log: Log,
    *,
    exact_gradients: bool = True,
    features: Model | None = None,
    judge: Model | None = None,
) -> Diagnosis:
    """The alarms of `gates` on a sample of n images, the quiet ones too, in the catalogue's order.

    Args:
        exact_gradients: False for straight-through gradients, which G6 must not compare.
        features: What G17 refits a head on, (B, d); the model's logits when not given.
        judge: Who says what is right, and what has fallen in the end; the model when not given.

    Raises:
        ConfigError: A gate is unknown.
        ValueError: The sample is empty, or `survivors` is not about its images.
        ModelError: The model has no gradients and a gate needs them.
        NumericsError: A logit or a gradient is not finite.
        ThreatViolation: A probe left the threat model.
    """
    if not len(images) or survivors.shape != (len(images),):
        raise ValueError(
            f"got {len(images)} images and survivors of shape {tuple(survivors.shape)}, "
            "expected at least one image and one entry each"
        )
    for gate in gates:
        look_up(DIAGNOSED, gate, "gates")
    judge = model if judge is None else judge
    correct = all_stand(judge, images)
    sample = Sample(
        model=model,
        judge=judge,
        images=images,
        correct=correct,
        survivors=survivors.cpu() & correct,
        probes=probes,
        threat=threat,
        seed=seed,
        limits=limits,
        log=log,
        exact_gradients=exact_gradients,
        features=model if features is None else features,
        fallen=torch.zeros(len(images), dtype=torch.bool),
    )
    alarms = [measure(sample) for gate, measure in DIAGNOSED.items() if gate in gates]
    return Diagnosis(alarms, sample.fallen)
