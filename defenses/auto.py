"""Hardening within a budget: which training, for how long, is chosen by measured rules."""

from math import inf
from typing import Annotated

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from defenses.adversarial_training import adversarial_training
from defenses.augment import Augmentation
from defenses.declaration import declares
from defenses.n_fgsm import n_fgsm
from defenses.pace import measure
from defenses.ranks import agreed
from defenses.rules import Choice, Pace, batch_size, choose
from defenses.trades import trades
from defenses.training import Loop
from hardening.data import TrainingData
from hardening.log import Checkpoint, Log, Relay
from hardening.spec import Record
from hardening.threat import ThreatModel

MULTIPLES = 40.0
"""The budget of who says none: 20 epochs of training on one step from noise."""

Floor = Annotated[float, Field(gt=0, le=1)]


class Budget(Record):
    """What hardening may cost."""

    multiples: float | None = Field(
        default=None,
        gt=0,
        allow_inf_nan=False,
        description="budget in epochs of plain training: backward passes for one training image; "
        "40 where no budget is given; looks at validation images come on top",
    )
    minutes: float | None = Field(
        default=None,
        gt=0,
        allow_inf_nan=False,
        description="budget in minutes of this machine as it is now, instead of multiples; a few "
        "optimizer steps are timed first",
    )

    @model_validator(mode="after")
    def _one(self) -> "Budget":
        if self.multiples is not None and self.minutes is not None:
            raise ValueError(
                f"got {self.multiples:g} multiples and {self.minutes:g} minutes, expected one of "
                "them"
            )
        return self


@declares(
    "adversarial training chosen by budget",
    due=("white-box", "gradient-free"),
    status="SOLID",
    passes=lambda params: (
        inf if params["budget"].minutes else params["budget"].multiples or MULTIPLES
    ),
    claim="the strongest training that a budget is enough for",
)
def auto(
    model: nn.Module,
    data: TrainingData,
    threat: ThreatModel,
    rng: torch.Generator,
    log: Log,
    /,
    *,
    budget: Budget = Budget(),  # noqa: B008
    keep_clean: Floor | None = None,
    augment: Augmentation = "none",
) -> nn.Module:
    """Choose a training that the budget is enough for, log why, and train.

    The choice is made once and lies in the checkpoint: a run that was interrupted goes on with it.
    By `multiples` it is the same everywhere, by `minutes` it depends on the machine.

    Args:
        keep_clean: Go back towards the given weights until clean validation accuracy is this.
        augment: shift = random crops, shift-flip = and mirror images; whether an image may be
            mirrored is not for a rule to know.

    Raises:
        ConfigError: The budget is too small to harden.
    """
    kept = log.restore()
    if kept is None:
        choice = agreed(_choose(model, data, threat, budget))
    else:
        choice = Choice.model_validate_json(kept.tensors[CHOICE].numpy().tobytes())
    log.chose(choice.text)
    stage = _Decided(log, choice, kept)
    if kept is None:
        stage.save(Checkpoint({}, {}))
    loop = Loop(
        epochs=choice.epochs,
        batch_size=choice.batch_size,
        ramp=choice.ramp,
        keep_clean=keep_clean,
        augment=augment,
    )
    if choice.method == "n_fgsm":
        return n_fgsm(model, data, threat, rng, stage, loop=loop)
    method = trades if choice.method == "trades" else adversarial_training
    return method(model, data, threat, rng, stage, steps=choice.steps, loop=loop)


def _choose(model: nn.Module, data: TrainingData, threat: ThreatModel, budget: Budget) -> Choice:
    images, channels = data.train.images.shape[:2]
    minutes = budget.minutes
    if minutes is None:
        multiples = budget.multiples or MULTIPLES
        said = f"a budget of {multiples:g} epochs of plain training"
        return choose(multiples, Pace(1, 1, 0), images, channels, threat, said=said)
    size = batch_size(images)
    pace = measure(model, data, threat, Loop(batch_size=size), 60 * minutes)
    said = (
        f"a budget of {minutes:g} minutes at {pace.plain:.3g} s an epoch of plain training and "
        f"{pace.attack:.3g} s a step of attack"
    )
    return choose(60 * minutes, pace, images, channels, threat, said=said)


CHOICE = "auto.choice"
"""What the checkpoints carry beside the training's own state."""


class _Decided(Relay):
    """A log whose checkpoints carry the choice, from before the first epoch on."""

    def __init__(self, log: Log, choice: Choice, kept: Checkpoint | None) -> None:
        super().__init__(log)
        text = bytearray(choice.model_dump_json().encode())
        self.choice: dict[str, Tensor] = {CHOICE: torch.frombuffer(text, dtype=torch.uint8)}
        self.kept = kept

    def save(self, checkpoint: Checkpoint) -> None:
        """Keep it with the choice."""
        self.log.save(Checkpoint({**checkpoint.tensors, **self.choice}, checkpoint.numbers))

    def restore(self) -> Checkpoint | None:
        """The training's own, once an epoch has ended."""
        return self.kept if self.kept is not None and {*self.kept.tensors} != {CHOICE} else None
