"""How fast a model trains on this machine, measured on a few real optimizer steps.

Shapes: B images.
"""

import statistics
import time

import torch
from torch import nn

from defenses.epoch import backward
from defenses.guards import PROBES
from defenses.inner import worst
from defenses.loop import Loop, Loss
from defenses.n_fgsm import noisy_step
from defenses.rules import Pace
from defenses.scores import BATCH, STEPS
from defenses.standard import cross_entropy
from defenses.trainee import Trainee
from hardening.data import Labelled, TrainingData
from hardening.deployment.trainable import Trainable
from hardening.deployment.twin import Twin
from hardening.randomness import seeded
from hardening.threat import ThreatModel

WARM_UP = 2
"""First steps that do not count: they allocate memory and choose kernels."""

LEAST, MOST = 5, 50
"""Steps of each kind whose median counts."""

TURNS = 3
"""Steps of the search that is timed."""

SHARE = 0.02
"""Of the time at hand that the measurement may take beyond the least steps."""


def measure(
    model: nn.Module, data: TrainingData, threat: ThreatModel, loop: Loop, seconds: float
) -> Pace:
    """Seconds of an epoch's parts for `model`, which is left as it was; no caller's randomness.

    Args:
        seconds: The time at hand, of which a small share is spent.
    """
    start = Trainable(model.data) if isinstance(model, Twin) else model
    noise = torch.Generator().manual_seed(0)
    with seeded(0):
        clocks = [
            _Clock(start, data, threat, loop, loss)
            for loss in (cross_entropy, noisy_step(noise, noise=2.0))
        ]
        ended = time.perf_counter() + SHARE * seconds
        # In turns: what else the machine does meets both alike.
        for turn in range(WARM_UP + MOST):
            if turn >= WARM_UP + LEAST and time.perf_counter() > ended:
                break
            for clock in clocks:
                clock.step(turn)
    plain, single = (clock.seconds for clock in clocks)
    # A clock that stutters must not make an attack free.
    attack = max(single - plain, 0.3 * plain)
    looked = data.validation.first(loop.validation_images)
    judged = len(looked) * (STEPS + 1) + PROBES * (STEPS + 3)
    images = len(data.train)
    return Pace(plain * images, attack * images, judged * _look(start, looked, threat))


def _look(model: nn.Module, data: Labelled, threat: ThreatModel) -> float:
    """Seconds of an image in a step of the search that judges an epoch."""
    device = next(model.parameters()).device
    part = data.first(BATCH)
    x, y = part.floats().to(device), part.labels.to(device)
    began = time.perf_counter()
    float(worst(model, x, y, x, threat, steps=TURNS).flatten()[0])
    return (time.perf_counter() - began) / (TURNS * len(y))


class _Clock:
    """Optimizer steps on a copy of a model, one after the other, and how long they took."""

    def __init__(
        self, model: nn.Module, data: TrainingData, threat: ThreatModel, loop: Loop, loss: Loss
    ) -> None:
        self.trainee = Trainee.start(model, loop.optimizer, loop.weight_decay, {})
        self.trainee.model.train()
        self.weight = next(self.trainee.model.parameters())
        part = data.train.first(loop.batch_size)
        self.x = part.floats().to(self.weight.device)
        self.y = part.labels.to(self.weight.device)
        self.threat, self.loop, self.loss = threat, loop, loss
        self.taken: list[float] = []

    def step(self, turn: int) -> None:
        """Take one."""
        began = time.perf_counter()
        backward(self.trainee.model, self.loss, self.x, self.y, self.threat, self.loop)
        self.trainee.step(1e-6, self.loop.ema, turn)
        float(self.weight.detach().flatten()[0])  # waits for a device that works by itself
        self.taken.append(time.perf_counter() - began)

    @property
    def seconds(self) -> float:
        """Of one image."""
        return statistics.median(self.taken[WARM_UP:]) / len(self.y)
