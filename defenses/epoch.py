"""One epoch of the training loop: a pass over the training images, and a look at what came of it.

Shapes: N images, B of them in a batch, C channels, H x W pixels, K classes.
"""

from math import isfinite
from typing import NamedTuple

import torch
from torch import Tensor, nn

from defenses.augment import AUGMENTATIONS
from defenses.guards import Guard, overfitting
from defenses.loop import Constraint, Loop, Loss
from defenses.ranks import agreed, check_alike, combine, own_draws, rank, share
from defenses.schedule import one_cycle, ramp
from defenses.scores import Score
from defenses.trainee import Trainee
from defenses.weight_perturbation import perturbed
from hardening.data import Labelled
from hardening.errors import BrokenPromise, NumericsError, TrainingFailed
from hardening.log import Log, Progress
from hardening.randomness import draw_seed, seeded
from hardening.threat import ThreatModel

LOOK = 10
"""Steps between two looks at the loss: each one makes the host wait for the device."""

PATIENCE = 0.5
"""Share of the steps that a model has to become of use."""


class Task(NamedTuple):
    """What stays the same over a training; `given` is the model it started from."""

    given: nn.Module
    train: Labelled
    validation: Labelled
    classes: int
    loss: Loss
    score: Score
    rng: torch.Generator
    log: Log
    loop: Loop
    threat: ThreatModel | None
    single_step: bool
    constrain: Constraint | None
    guard: Guard

    @property
    def steps(self) -> int:
        """Of the optimizer, in all."""
        batches = len(_batches(torch.arange(len(self.train)), self.loop.batch_size))
        return batches * self.loop.replays * self.loop.epochs

    def ramp(self, step: int, caution: float) -> float:
        """Factor on eps at this step; `caution` is one on the share of steps at full eps."""
        share = self.loop.ramp + (1 - self.loop.ramp) * (1 - caution)
        return ramp(step, self.steps, share)


def run_epoch(trainee: Trainee, task: Task, advance: Progress) -> bool:
    """Train and judge one epoch; whether it is one to come back to.

    At first, and while eps grows, a model may well predict one class: no failure yet, and no epoch
    to come back to either.

    Raises:
        NumericsError: A loss or a weight is not finite.
        TrainingFailed: At full eps and in the second half the model is of no use.
        BrokenPromise: No weight changed.
    """
    with seeded(draw_seed(task.rng) + rank()):
        values = {"loss": _pass(trainee, task, advance)}
        trainee.epoch += 1
        done = trainee.epoch * task.steps // task.loop.epochs
        full = task.threat is None or task.ramp(done - 1, trainee.caution) == 1
        competes = full or trainee.epoch == task.loop.epochs
        trouble = agreed(_trouble(trainee, task, full=full))
        check_alike(trainee.model)
        if trouble and competes and done >= PATIENCE * task.steps:
            raise TrainingFailed(trouble)
        if competes and not trouble:
            values["score"] = trainee.compete(agreed(task.score(trainee.average, task.validation)))
    task.log.metrics(trainee.epoch, values)
    return not trouble


def _trouble(trainee: Trainee, task: Task, *, full: bool) -> str:
    if not all(bool(weight.isfinite().all()) for weight in trainee.average.parameters()):
        raise NumericsError("training: got weights that are not finite: lower the learning rate")
    pairs = zip(task.given.parameters(), trainee.average.parameters(), strict=True)
    if all(torch.equal(old, new) for old, new in pairs):
        raise BrokenPromise("training: no weight changed")
    trouble = task.guard(trainee.average, task.validation, task.classes)
    if trouble or task.threat is None or not (full and task.single_step):
        return trouble
    return overfitting(trainee.model, task.validation, task.threat, task.rng)


def _pass(trainee: Trainee, task: Task, advance: Progress) -> float:
    """One pass over the training images; returns the mean loss."""
    loop, rng, total = task.loop, task.rng, task.steps
    order = torch.randperm(len(task.train), generator=rng, device=rng.device)
    batches = _batches(order.to(task.train.labels.device), loop.batch_size)
    steps = len(batches) * loop.replays
    augment = AUGMENTATIONS[loop.augment]
    losses: list[Tensor] = []
    seen = 0.0
    trainee.model.train()
    for index in range(steps):
        step = trainee.epoch * steps + index
        if index % loop.replays == 0:
            part = task.train.take(batches[index // loop.replays])
            x, y = augment(part.floats(), rng), part.labels
        now = task.threat and task.threat.scaled(task.ramp(step, trainee.caution))
        with own_draws(rng):
            mine = backward(trainee.model, task.loss, share(x), share(y), now, loop)
        losses.append(combine(trainee.model, mine, len(share(y)) / len(y)))
        rate = loop.learning_rate * trainee.caution * one_cycle(step, total)
        trainee.step(rate, loop.ema, step, task.constrain)
        if len(losses) == LOOK or index + 1 == steps:
            seen += _sum(losses, trainee.epoch + 1, index + 2 - len(losses))
            note = f"epoch {trainee.epoch + 1}/{loop.epochs} loss {seen / (index + 1):.3f}"
            advance(len(losses), note)
            losses.clear()
    return seen / steps


def backward(
    model: nn.Module, loss: Loss, x: Tensor, y: Tensor, threat: ThreatModel | None, loop: Loop
) -> Tensor:
    """Add the gradient of the mean loss of a batch to the parameters'; returns that mean.

    A batch of none, a process's share of a very small one, adds nothing.
    """
    if not len(y):
        return x.new_zeros(())
    parts = max(1, min(loop.accumulate, len(y) // 2))
    total = x.new_zeros(())
    for images, labels in zip(x.tensor_split(parts), y.tensor_split(parts), strict=True):
        share = len(labels) / len(y)
        value = share * loss(model, images, labels, threat)
        if loop.awp:
            # The paper's alternation: the images are the worst ones of the perturbed weights.
            with perturbed(model, value, loop.awp):
                value = share * loss(model, images, labels, threat)
                value.backward()
        else:
            value.backward()
        total += value.detach()
    return total


def _sum(losses: list[Tensor], epoch: int, first: int) -> float:
    values = torch.stack(losses).tolist()
    for step, value in enumerate(values, first):
        if not isfinite(value):
            raise NumericsError(
                f"training: got loss {value} at epoch {epoch}, step {step}, expected a finite "
                "number: lower the learning rate"
            )
    return float(sum(values))


def _batches(order: Tensor, size: int) -> list[Tensor]:
    """A last batch of one image is left out: batch normalisation has no variance to divide by."""
    return [batch for batch in torch.split(order, size) if len(batch) > 1]
