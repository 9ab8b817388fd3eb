"""The one training loop: a training defense is a loss, the loop is always this one.

Shapes: N images, B of them in a batch, C channels, H x W pixels, K classes.
"""

import torch
from torch import Tensor, nn

from defenses.anchor import anchored
from defenses.dial import keep_clean
from defenses.epoch import Task, run_epoch
from defenses.guards import Guard, collapse
from defenses.loop import Constraint, Loop, Loss
from defenses.ranks import together
from defenses.scores import Score
from defenses.trainee import Trainee
from hardening.data import Labelled, TrainingData
from hardening.deployment.trainable import Trainable
from hardening.deployment.twin import Twin
from hardening.errors import ConfigError, DataError, ModelError, NumericsError, TrainingFailed
from hardening.log import Log
from hardening.threat import ThreatModel

__all__ = ["Loop", "Loss", "fit"]

RECOVERIES = {NumericsError: 1, TrainingFailed: 2}
"""How often a training goes back to its last good epoch before it gives up."""


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
    memory: dict[str, Tensor] | None = None,
    single_step: bool = False,
    constrain: Constraint | None = None,
    guard: Guard = collapse,
) -> nn.Module:
    """Minimise `loss` on a copy of `model` and return its averaged weights of the best epoch.

    A twin gives the twin of the same graph with other weights.
    Resumes from the last checkpoint of `log` and ends with the same bits as if it had not stopped.
    An epoch competes for the best `score` on validation images once eps has reached its full size.
    A training that fails goes on from its last good epoch with half the learning rate and half the
    share of steps at full eps; when that has not helped, it ends with the best epoch it has.
    Of several processes, see `defenses.ranks`, each computes on its part of every batch, as
    `accumulate` cuts it, with random starts of its own; all return the same model.

    Args:
        memory: Tensors that the loss changes in place, part of every checkpoint.
        single_step: Whether to look out for a model that withstands one step and no search.
        constrain: Puts the weights back where they may be, after every optimizer step; where the
            given ones are there, so are their averages.
        guard: Says what makes an epoch's model of no use, whatever the threat.

    Raises:
        NumericsError: The loss or a weight is not finite.
        TrainingFailed: No epoch at full eps gave a model that does more than predict one class, or
            withstands more than one step.
        BrokenPromise: The model did not change, or `keep_clean` cannot be had.
        ConfigError: There are several processes, and a memory that each would keep for itself.
    """
    if memory and together() > 1:
        raise ConfigError(
            f"training: got {together()} processes, expected 1 for a defense that carries numbers "
            "from batch to batch"
        )
    given = Trainable(model.data) if isinstance(model, Twin) else model
    device = _device(given)
    _check_images(data)
    task = Task(
        given=given,
        train=_on(data.train, device),
        validation=_choose(_on(data.validation, device), loop.validation_images, rng),
        classes=len(data.classes),
        loss=anchored(loss, given, loop.anchor) if loop.anchor else loss,
        score=score,
        rng=rng,
        log=log,
        loop=loop,
        threat=threat,
        single_step=single_step,
        constrain=constrain,
        guard=guard,
    )
    trainee = Trainee.start(given, loop.optimizer, loop.weight_decay, memory or {})
    trainee.restore(log.restore(), rng)
    _train(trainee, task)
    after = trainee.best_model()
    if loop.keep_clean is not None:
        after = keep_clean(given, after, task.validation, loop.keep_clean, log)
    return _twin_of(after) if isinstance(model, Twin) else after


def _twin_of(trained: nn.Module) -> Twin:
    assert isinstance(trained, Trainable)
    return Twin(trained.cpu().file())


def _device(model: nn.Module) -> torch.device:
    weight = next(model.parameters(), None)
    if weight is None:
        raise ModelError("training: got a model without trainable weights, expected some")
    return weight.device


def _check_images(data: TrainingData) -> None:
    if len(data.train) < 2 or not len(data.validation):
        raise DataError(
            f"got {len(data.train)} training and {len(data.validation)} validation images, "
            "expected at least 2 and 1"
        )


def _train(trainee: Trainee, task: Task) -> None:
    """All epochs that are left; where one fails, again from the last good one."""
    good = trainee.checkpoint(task.rng)
    while trainee.epoch < task.loop.epochs:
        try:
            with task.log.progress("training", task.steps, "step") as advance:
                advance(trainee.epoch * task.steps // task.loop.epochs)
                while trainee.epoch < task.loop.epochs:
                    if run_epoch(trainee, task, advance):
                        good = trainee.checkpoint(task.rng)
                        task.log.save(good)
        except (NumericsError, TrainingFailed) as error:
            recoveries = trainee.recoveries
            trainee.restore(good, task.rng)
            if recoveries >= RECOVERIES[type(error)]:
                if isinstance(error, NumericsError) or not trainee.best:
                    raise
                task.log.line(f"{error}; ends with the best of {trainee.epoch} epochs")
                return
            trainee.recoveries = recoveries + 1
            task.log.line(
                f"{error}; goes on from the end of epoch {trainee.epoch} with "
                f"{trainee.caution} x the learning rate and a longer ramp"
            )


def _on(data: Labelled, device: torch.device) -> Labelled:
    return Labelled(data.images.to(device), data.labels.to(device))


def _choose(data: Labelled, most: int, rng: torch.Generator) -> Labelled:
    order = torch.randperm(len(data), generator=rng, device=rng.device)
    return data.take(order[:most].to(data.labels.device))
