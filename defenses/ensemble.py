"""Several models that answer together, https://arxiv.org/abs/1705.07204 and many others.

Shapes: B images, C channels, H x W pixels, K classes.
"""

from collections.abc import Sequence
from math import log as natural_log
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from defenses.adversarial_training import worst_case
from defenses.declaration import declares
from defenses.fresh import fresh
from defenses.scores import clean_accuracy, robust_accuracy
from defenses.stages import in_turn
from defenses.standard import cross_entropy
from defenses.training import Loop, fit
from hardening.data import TrainingData
from hardening.log import Log
from hardening.models.form import Form
from hardening.spec import Spec
from hardening.threat import ThreatModel

Mean = Literal["probabilities", "logits"]
How = Literal["adversarial", "plain"]


@declares(
    "several models in one file, their mean answer",
    due=("white-box", "transfer", "gradient-free"),
    status="AT-BASED",
    passes=lambda params: (
        params["members"]
        * params["loop"].passes(1 + (params["steps"] if params["training"] == "adversarial" else 0))
    ),
    claim="several models together are harder to fool than one",
)
def ensemble(
    model: nn.Module,
    data: TrainingData,
    threat: ThreatModel,
    rng: torch.Generator,
    log: Log,
    /,
    *,
    members: Annotated[int, Field(ge=2)] = 3,
    training: How = "adversarial",
    mean: Mean = "probabilities",
    steps: Annotated[int, Field(ge=1)] = 7,
    loop: Loop = Loop(),  # noqa: B008
) -> "Ensemble":
    """Train the model and others of its architecture from initial weights; they answer as one.

    The file holds all of them, and an attack follows the gradient of their mean: members that were
    trained plainly and differ are no defense against it (https://arxiv.org/abs/2002.08347).

    Args:
        members: Models in all; an answer costs as many times more.
        training: Of the members: on the worst images that PGD finds, or on clean ones.
        mean: What is averaged; the mean of probabilities is answered as its logarithm.
        steps: Of PGD, each 2.5 eps / steps long; a training step costs steps + 1 plain ones.

    Raises:
        ModelError: The model is an ONNX file, which has no architecture to train anew.
    """
    starts = [model, *(fresh(model, rng, "ensemble") for _ in range(members - 1))]
    adversarial = training == "adversarial"

    def train(
        start: nn.Module, _: Sequence[nn.Module], own: torch.Generator, stage: Log
    ) -> nn.Module:
        loss = worst_case(own, steps=steps) if adversarial else cross_entropy
        score = robust_accuracy(threat, own) if adversarial else clean_accuracy
        within = threat if adversarial else None
        return fit(start, data, loss, score, own, stage, loop=loop, threat=within)

    return Ensemble(in_turn(starts, train, loop.epochs, rng, log), mean).eval()


def answering_together(parts: Sequence[nn.Module], *, mean: Mean) -> "Ensemble":
    """Models that answer as one, as their file describes them."""
    return Ensemble(parts, mean)


class Ensemble(Form):
    """The mean answer of its parts."""

    def __init__(self, parts: Sequence[nn.Module], mean: Mean) -> None:
        super().__init__(Spec(name="ensemble", params={"mean": mean}), parts)
        self.mean = mean

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, K) of images (B, C, H, W) in [0, 1]: means, or logarithms of means."""
        answers = torch.stack([part(x) for part in self.parts])
        if self.mean == "logits":
            return answers.mean(0)
        return F.log_softmax(answers, 2).logsumexp(0) - natural_log(len(self.parts))
