"""Trainings one after the other that are one piece of work and resume in the one they were in."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from copy import deepcopy

import torch
from torch import Tensor, nn

from hardening.log import Checkpoint, Log, Progress, Relay
from hardening.randomness import draw_seed

Training = Callable[[nn.Module, Sequence[nn.Module], torch.Generator, Log], nn.Module]
"""Maps the model to start from, those that are done, randomness and a log to a trained model."""

STAGE = "stage"
"""Number of a checkpoint: the training it is of; the models before it lie beside it."""


def in_turn(
    starts: Sequence[nn.Module], train: Training, epochs: int, rng: torch.Generator, log: Log
) -> list[nn.Module]:
    """Train each of `starts`, `epochs` long, and return all.

    Each has a generator of its own: one that starts after a resumption draws what it would have
    drawn.
    """
    seeds = [draw_seed(rng) for _ in starts]
    kept = log.restore()
    first = 0 if kept is None else int(kept.numbers[STAGE])
    done = [] if kept is None else [_done(kept, i, starts[i]) for i in range(first)]
    for index in range(first, len(starts)):
        stage = _Stage(log, len(starts), epochs, done, kept if index == first else None)
        own = torch.Generator(rng.device).manual_seed(seeds[index])
        done.append(train(starts[index], tuple(done), own, stage))
    return done


class _Stage(Relay):
    """The log of one training, whose checkpoints carry the models that are done."""

    def __init__(
        self, log: Log, stages: int, epochs: int, done: list[nn.Module], kept: Checkpoint | None
    ) -> None:
        super().__init__(log)
        self.stages, self.epochs, self.kept = stages, epochs, kept
        self.index = len(done)
        self.done = {
            f"{_place(index)}{key}": value.detach().cpu().clone()
            for index, model in enumerate(done)
            for key, value in model.state_dict().items()
        }

    def progress(self, what: str, total: int, unit: str) -> AbstractContextManager[Progress]:
        return self.log.progress(f"{what}, {self.index + 1} of {self.stages}", total, unit)

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        self.log.metrics(self.index * self.epochs + step, values)

    def save(self, checkpoint: Checkpoint) -> None:
        numbers = {**checkpoint.numbers, STAGE: self.index}
        self.log.save(Checkpoint({**checkpoint.tensors, **self.done}, numbers))

    def restore(self) -> Checkpoint | None:
        return self.kept


def _place(index: int) -> str:
    return f"done.{index}."


def _done(kept: Checkpoint, index: int, start: nn.Module) -> nn.Module:
    place = _place(index)
    state: dict[str, Tensor] = {
        key.removeprefix(place): value
        for key, value in kept.tensors.items()
        if key.startswith(place)
    }
    model = deepcopy(start)
    model.load_state_dict(state)
    return model.eval()
