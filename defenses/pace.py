"""How fast a model trains on this machine, measured on a few real optimizer steps.

Shapes: B images.
"""

import statistics
import time

import torch
from torch import nn

from defenses.epoch import backward
from defenses.guards import PROBES
from defenses.loop import Loop, Loss
from defenses.n_fgsm import noisy_step
from defenses.rules import Pace
from defenses.scores import STEPS
from defenses.standard import cross_entropy
from defenses.trainee import Trainee
from hardening.data import TrainingData
from hardening.deployment.trainable import Trainable
from hardening.deployment.twin import Twin
from hardening.randomness import seeded
from hardening.threat import ThreatModel

WARM_UP = 2
"""First steps that do not count: they allocate memory and choose kernels."""

TIMED = 5
"""Steps whose median counts."""


def measure(model: nn.Module, data: TrainingData, threat: ThreatModel, loop: Loop) -> Pace:
    """Seconds of an epoch's parts for `model`, which is left as it was; no caller's randomness."""
    start = Trainable(model.data) if isinstance(model, Twin) else model
    noise = torch.Generator().manual_seed(0)
    with seeded(0):
        plain = _seconds(start, data, threat, loop, cross_entropy)
        single = _seconds(start, data, threat, loop, noisy_step(noise, noise=2.0))
    # A clock that stutters must not make an attack free.
    attack = max(single - plain, 0.3 * plain)
    judged = min(loop.validation_images, len(data.validation)) * (STEPS + 1) + PROBES * (STEPS + 3)
    images = len(data.train)
    return Pace(plain * images, attack * images, attack * judged)


def _seconds(
    model: nn.Module, data: TrainingData, threat: ThreatModel, loop: Loop, loss: Loss
) -> float:
    """Of one image in an optimizer step."""
    trainee = Trainee.start(model, loop.optimizer, loop.weight_decay, {})
    weight = next(trainee.model.parameters())
    part = data.train.first(loop.batch_size)
    x, y = part.floats().to(weight.device), part.labels.to(weight.device)
    trainee.model.train()
    taken = []
    for step in range(WARM_UP + TIMED):
        began = time.perf_counter()
        backward(trainee.model, loss, x, y, threat, loop)
        trainee.step(1e-6, loop.ema, step)
        float(weight.detach().flatten()[0])  # waits for a device that works by itself
        taken.append(time.perf_counter() - began)
    return statistics.median(taken[WARM_UP:]) / len(y)
