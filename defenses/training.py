"""The one training loop: a training defense is a loss, the loop is always this one.

Shapes: N images, B of them in a batch, C channels, H x W pixels, K classes.
"""

from collections.abc import Callable
from math import isfinite
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from defenses.augment import AUGMENTATIONS, Augmentation
from defenses.schedule import one_cycle, ramp
from defenses.scores import Score
from defenses.trainee import Trainee
from hardening.data import Labelled, TrainingData
from hardening.deployment.trainable import Trainable
from hardening.deployment.twin import Twin
from hardening.errors import BrokenPromise, DataError, ModelError, NumericsError
from hardening.log import Log, Progress
from hardening.randomness import draw_seed, seeded
from hardening.spec import Record
from hardening.threat import ThreatModel

Loss = Callable[[nn.Module, Tensor, Tensor, ThreatModel | None], Tensor]
"""Maps model, images (B, C, H, W), labels (B,) and the threat at this step to a scalar."""

LOOK = 10
"""Steps between two looks at the loss: each one makes the host wait for the device."""


class Loop(Record):
    """How to train, whatever the loss."""

    epochs: int = Field(default=10, ge=1, description="passes over the training images")
    batch_size: int = Field(default=128, ge=2, description="images per optimizer step")
    learning_rate: float = Field(
        default=5e-3, gt=0, description="peak of the one-cycle schedule, reached after 30 % of it"
    )
    optimizer: Literal["sgd", "adamw"] = Field(
        default="adamw", description="sgd has momentum 0.9; its learning rate is about 20 x larger"
    )
    weight_decay: float = Field(default=5e-4, ge=0, description="shrinks weights at every step")
    ema: float = Field(
        default=0.99, ge=0, lt=1, description="decay of the averaged weights that are returned"
    )
    ramp: float = Field(
        default=0.4, ge=0, le=1, description="share of the steps in which eps grows from 0"
    )
    validation_images: int = Field(
        default=500, ge=1, description="most images that choose the best epoch"
    )
    augment: Augmentation = Field(
        default="none", description="shift = random crops, shift-flip = and mirror images"
    )


def fit(
    model: nn.Module,
    data: TrainingData,
    loss: Loss,
    score: Score,
    rng: torch.Generator,
    log: Log,
    /,
    *,
    loop: Loop,
    threat: ThreatModel | None,
) -> nn.Module:
    """Minimise `loss` on a copy of `model` and return its averaged weights of the best epoch.

    A twin gives the twin of the same graph with other weights.
    Resumes from the last checkpoint of `log` and ends with the same bits as if it had not stopped.
    An epoch competes for the best `score` on validation images once eps has reached its full size.

    Raises:
        NumericsError: The loss or a weight is not finite.
        BrokenPromise: The model did not change, or predicts one class whatever it sees.
    """
    if isinstance(model, Twin):
        trained = fit(Trainable(model.data), data, loss, score, rng, log, loop=loop, threat=threat)
        assert isinstance(trained, Trainable)
        return Twin(trained.cpu().file())
    if next(model.parameters(), None) is None:
        raise ModelError("training: got a model without trainable weights, expected some")
    device = next(model.parameters()).device
    train = _on(data.train, device)
    steps = len(_batches(torch.arange(len(train)), loop.batch_size))
    if not steps or not len(data.validation):
        raise DataError(
            f"got {len(train)} training and {len(data.validation)} validation images, "
            "expected at least 2 and 1"
        )
    total = steps * loop.epochs
    validation = _choose(_on(data.validation, device), loop.validation_images, rng)
    trainee = Trainee.start(model, loop.optimizer, loop.weight_decay)
    trainee.restore(log.restore(), rng)
    with log.progress("training", total, "step") as advance:
        advance(trainee.epoch * steps)
        while trainee.epoch < loop.epochs:
            with seeded(draw_seed(rng)):
                mean = _epoch(trainee, train, loss, rng, advance, loop=loop, threat=threat)
                trainee.epoch += 1
                values = {"loss": mean}
                full = threat is None or ramp(trainee.epoch * steps - 1, total, loop.ramp) == 1
                if full or trainee.epoch == loop.epochs:
                    values["score"] = trainee.compete(score(trainee.average, validation))
            log.metrics(trainee.epoch, values)
            log.save(trainee.checkpoint(rng))
    return _checked(model, trainee.best_model(), validation, len(data.classes))


def _epoch(
    trainee: Trainee,
    train: Labelled,
    loss: Loss,
    rng: torch.Generator,
    advance: Progress,
    /,
    *,
    loop: Loop,
    threat: ThreatModel | None,
) -> float:
    """One pass over the training images; returns the mean loss."""
    order = torch.randperm(len(train), generator=rng, device=rng.device).to(train.labels.device)
    batches = _batches(order, loop.batch_size)
    first, total = trainee.epoch * len(batches), loop.epochs * len(batches)
    augment = AUGMENTATIONS[loop.augment]
    losses: list[Tensor] = []
    seen = 0.0
    trainee.model.train()
    for index, batch in enumerate(batches):
        step = first + index
        part = train.take(batch)
        now = threat and threat.scaled(ramp(step, total, loop.ramp))
        value = loss(trainee.model, augment(part.floats(), rng), part.labels, now)
        trainee.step(value, loop.learning_rate * one_cycle(step, total), loop.ema, step)
        losses.append(value.detach())
        if len(losses) == LOOK or index + 1 == len(batches):
            seen += _sum(losses, trainee.epoch + 1, index + 2 - len(losses))
            note = f"epoch {trainee.epoch + 1}/{loop.epochs} loss {seen / (index + 1):.3f}"
            advance(len(losses), note)
            losses.clear()
    return seen / len(batches)


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


def _on(data: Labelled, device: torch.device) -> Labelled:
    return Labelled(data.images.to(device), data.labels.to(device))


def _choose(data: Labelled, most: int, rng: torch.Generator) -> Labelled:
    order = torch.randperm(len(data), generator=rng, device=rng.device)
    return data.take(order[:most].to(data.labels.device))


def _checked(before: nn.Module, after: nn.Module, validation: Labelled, classes: int) -> nn.Module:
    pairs = list(zip(before.parameters(), after.parameters(), strict=True))
    if not all(bool(new.isfinite().all()) for _, new in pairs):
        raise NumericsError("training: got weights that are not finite: lower the learning rate")
    if all(torch.equal(old, new) for old, new in pairs):
        raise BrokenPromise("training: no weight changed")
    with torch.no_grad():
        guesses = torch.cat([after(x).argmax(1) for x, _ in validation.batches(500)])
    accuracy = float((guesses == validation.labels).float().mean())
    # With unequal classes a constant may be right far more often than chance.
    constant = len(torch.unique(guesses)) == 1 < len(torch.unique(validation.labels))
    if accuracy < 1 / classes + 0.05 or constant:
        raise BrokenPromise(
            f"training: collapsed to a constant predictor (clean validation accuracy "
            f"{accuracy:.1%}): lower eps, a longer ramp, or fewer epochs at a lower learning rate"
        )
    return after
