"""Defensive distillation, https://arxiv.org/abs/1511.04508.

Shapes: B images, C channels, H x W pixels, K classes.
"""

from collections.abc import Sequence
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from defenses.declaration import declares
from defenses.fresh import fresh
from defenses.scores import clean_accuracy
from defenses.stages import in_turn
from defenses.training import Loop, Loss, fit
from hardening.data import TrainingData
from hardening.log import Log
from hardening.threat import ThreatModel


@declares(
    "learns another model's soft labels at a high temperature",
    due=("white-box", "transfer", "gradient-free"),
    status="BROKEN",
    passes=lambda params: 2 * params["loop"].passes(1),
    claim="the success of adversarial crafting falls from 95 % to less than 0.5 %",
)
def distillation(
    model: nn.Module,
    data: TrainingData,
    threat: ThreatModel,  # noqa: ARG001
    rng: torch.Generator,
    log: Log,
    /,
    *,
    temperature: Annotated[float, Field(ge=1, allow_inf_nan=False)] = 20.0,
    loop: Loop = Loop(),  # noqa: B008
) -> nn.Module:
    """Train a teacher at a temperature, a student on its answers, and deploy the student at 1.

    Both start from initial weights. The student's logits come out about `temperature` times larger
    than a plain model's: its softmax saturates, and the gradient of the cross entropy is zero in
    float32. The margin of the logits has a gradient as before, and an attack on that breaks it
    (https://arxiv.org/abs/1608.04644).

    Args:
        temperature: What logits are divided by in training; the paper's best is 100. At 1 it
            hides nothing.

    Raises:
        ModelError: The model is an ONNX file, which has no architecture to train anew.
    """
    starts = [fresh(model, rng, "distillation") for _ in ("teacher", "student")]

    def train(
        start: nn.Module, done: Sequence[nn.Module], own: torch.Generator, stage: Log
    ) -> nn.Module:
        loss = taught(done[0], temperature) if done else softened(temperature)
        return fit(start, data, loss, clean_accuracy, own, stage, loop=loop, threat=None)

    _, student = in_turn(starts, train, loop.epochs, rng, log)
    log.line(f"teacher and student trained at temperature {temperature:g}, deployed at 1")
    return student


def softened(temperature: float) -> Loss:
    """The mean cross entropy of softmax(logits / `temperature`) with the labels."""

    def loss(model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel | None) -> Tensor:  # noqa: ARG001
        return F.cross_entropy(model(x) / temperature, y)

    return loss


def taught(teacher: nn.Module, temperature: float) -> Loss:
    """The same with the teacher's answers at that temperature in place of labels."""

    def loss(model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel | None) -> Tensor:  # noqa: ARG001
        with torch.no_grad():
            answers = (teacher(x) / temperature).softmax(1)
        return F.cross_entropy(model(x) / temperature, answers)

    return loss
