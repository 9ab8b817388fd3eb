"""What changes during a training: the live weights, their average, the best so far."""

from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from math import inf
from typing import Literal, Self

import torch
from torch import Tensor, nn

from defenses.loop import Constraint
from defenses.schedule import decay
from hardening.log import Checkpoint


@dataclass
class Trainee:
    """A model in training; `average` is what validation scores and what is returned in the end.

    `memory` is what the loss writes and reads from step to step.
    """

    model: nn.Module
    average: nn.Module
    optimizer: torch.optim.Optimizer
    best: dict[str, Tensor]
    memory: dict[str, Tensor]
    best_score: float = -inf
    epoch: int = 0
    recoveries: int = 0

    @classmethod
    def start(
        cls,
        model: nn.Module,
        optimizer: Literal["sgd", "adamw"],
        shrink: float,
        memory: dict[str, Tensor],
    ) -> Self:
        """Copies of `model`, and an optimizer with weight decay `shrink` for its free weights."""
        live, average = deepcopy(model), deepcopy(model).eval().requires_grad_(False)
        free = [p for p in live.parameters() if p.requires_grad]
        if optimizer == "sgd":
            chosen: torch.optim.Optimizer = torch.optim.SGD(
                free, momentum=0.9, nesterov=True, weight_decay=shrink
            )
        else:
            chosen = torch.optim.AdamW(free, weight_decay=shrink)
        return cls(live, average, chosen, {}, memory)

    def step(
        self, rate: float, limit: float, step: int, constrain: Constraint | None = None
    ) -> None:
        """Descend along the gradients once, at learning rate `rate`, and update the average."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.optimizer.zero_grad()
        if constrain is not None:
            constrain(self.model)
        follow(self.average, self.model, decay(step, limit))

    @property
    def caution(self) -> float:
        """Factor on the learning rate and on the share of steps at full eps."""
        return float(0.5**self.recoveries)

    def compete(self, score: float) -> float:
        """Keep the averaged weights if `score` is the best so far; on a tie the later ones win."""
        if score >= self.best_score:
            self.best_score = score
            self.best = {k: v.clone() for k, v in self.average.state_dict().items()}
        return score

    def best_model(self) -> nn.Module:
        """The average of the best epoch, in eval mode, its weights as free as they were."""
        chosen = deepcopy(self.average)
        chosen.load_state_dict(self.best)
        for ours, theirs in zip(chosen.parameters(), self.model.parameters(), strict=True):
            ours.requires_grad_(theirs.requires_grad)
        return chosen

    def checkpoint(self, rng: torch.Generator) -> Checkpoint:
        """All of it, flat."""
        tensors = {"rng": rng.get_state()}
        tensors |= {f"model.{k}": v for k, v in self.model.state_dict().items()}
        tensors |= {f"average.{k}": v for k, v in self.average.state_dict().items()}
        tensors |= {f"best.{k}": v for k, v in self.best.items()}
        tensors |= {f"memory.{k}": v for k, v in self.memory.items()}
        for index, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{k}": v for k, v in state.items()}
        copies = {k: v.detach().cpu().clone() for k, v in tensors.items()}
        numbers: dict[str, float] = {"epoch": self.epoch, "recoveries": self.recoveries}
        if self.best:  # minus infinity is no number in JSON
            numbers["best_score"] = self.best_score
        return Checkpoint(copies, numbers)

    def restore(self, checkpoint: Checkpoint | None, rng: torch.Generator) -> None:
        """Continue from `checkpoint`, if there is one."""
        if checkpoint is None:
            return
        tensors = checkpoint.tensors
        rng.set_state(tensors["rng"])
        self.model.load_state_dict(dict(_under("model.", tensors)))
        self.average.load_state_dict(dict(_under("average.", tensors)))
        self.best = dict(_under("best.", tensors))
        for key, value in _under("memory.", tensors):
            self.memory[key].copy_(value)
        state: dict[int, dict[str, Tensor]] = {}
        for key, value in _under("optimizer.", tensors):
            index, _, name = key.partition(".")
            state.setdefault(int(index), {})[name] = value
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": state, "param_groups": groups})
        self.optimizer.zero_grad()
        self.epoch = int(checkpoint.numbers["epoch"])
        self.recoveries = int(checkpoint.numbers["recoveries"])
        self.best_score = checkpoint.numbers.get("best_score", -inf)


@torch.no_grad()
def follow(average: nn.Module, model: nn.Module, past: float) -> None:
    """Move the weights of `average` towards `model`'s: past * average + (1 - past) * model.

    Buffers are copied: the statistics of batch normalisation are averages already, and an average
    of counters is no counter.
    """
    for mean, new in zip(average.parameters(), model.parameters(), strict=True):
        mean.lerp_(new, 1 - past)
    for ours, theirs in zip(average.buffers(), model.buffers(), strict=True):
        ours.copy_(theirs)


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """The tensors whose names start with `prefix`, without it."""
    for key, value in tensors.items():
        if key.startswith(prefix):
            yield key.removeprefix(prefix), value
