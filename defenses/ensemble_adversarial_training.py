"""Ensemble adversarial training, https://arxiv.org/abs/1705.07204.

Shapes: B images, C channels, H x W pixels, K classes.
"""

from collections.abc import Sequence
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from defenses.attacked import attacked
from defenses.declaration import declares
from defenses.fresh import fresh
from defenses.scores import BATCH, Score, clean_accuracy
from defenses.stages import in_turn
from defenses.standard import cross_entropy
from defenses.training import Loop, Loss, fit
from hardening.data import Labelled, TrainingData
from hardening.log import Log
from hardening.threat import ThreatModel


@declares(
    "trains on one step that other models, too, lead",
    due=("white-box", "transfer", "gradient-free"),
    status="TRANSFER-ONLY",
    passes=lambda params: params["loop"].passes(3) + params["sources"] * params["loop"].epochs,
    claim="training on images transferred from other models resists black-box attacks",
)
def ensemble_adversarial_training(
    model: nn.Module,
    data: TrainingData,
    threat: ThreatModel,
    rng: torch.Generator,
    log: Log,
    /,
    *,
    sources: Annotated[int, Field(ge=1)] = 3,
    loop: Loop = Loop(),  # noqa: B008
) -> nn.Module:
    """Minimise the cross entropy on images, and on one step of size eps that some model leads.

    For each batch that is the model itself or one of several that stand still. It hardens against
    attacks that are carried over from other models, and less against its own gradients than
    training on the model's own steps would.

    Args:
        sources: Models of the same architecture, trained plainly beforehand on the same images; a
            training step costs 3 plain ones, each source one plain training of as many epochs.

    Raises:
        ModelError: The model is an ONNX file, which has no architecture to train anew.
    """
    what = "ensemble_adversarial_training"
    starts = [*(fresh(model, rng, what) for _ in range(sources)), model]
    plain = loop.model_copy(update={"awp": 0.0, "anchor": 0.0, "keep_clean": None})

    def train(
        start: nn.Module, done: Sequence[nn.Module], own: torch.Generator, stage: Log
    ) -> nn.Module:
        if len(done) < sources:
            score = clean_accuracy
            return fit(start, data, cross_entropy, score, own, stage, loop=plain, threat=None)
        loss, carried = led_by_any(done, own), under(done, threat)
        return fit(start, data, loss, carried, own, stage, loop=loop, threat=threat)

    return in_turn(starts, train, loop.epochs, rng, log)[-1]


def led_by_any(static: Sequence[nn.Module], rng: torch.Generator) -> Loss:
    """Half the mean cross entropy of a batch, and half of that one step away from it."""

    def loss(model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel | None) -> Tensor:
        assert threat is not None
        leaders = (*static, model)
        drawn = int(torch.randint(len(leaders), (), generator=rng, device=rng.device))
        x_adv = one_step(leaders[drawn], x, threat)
        return F.cross_entropy(model(torch.cat([x, x_adv])), torch.cat([y, y]))

    return loss


def one_step(source: nn.Module, x: Tensor, threat: ThreatModel) -> Tensor:
    """Images (B, C, H, W) one step of size eps away from what `source` says of them.

    From its own answer and not from the label: a step from the label betrays it.
    """
    with attacked(source):
        images = x.detach().requires_grad_()
        logits = source(images)
        loss = F.cross_entropy(logits, logits.argmax(1), reduction="sum")
        (gradient,) = torch.autograd.grad(loss, images)
    return threat.project(x, x + threat.eps * threat.ascend(gradient))


def under(static: Sequence[nn.Module], threat: ThreatModel) -> Score:
    """A score: accuracy on the images that `static` lead to, the worst of them."""

    def score(model: nn.Module, data: Labelled) -> float:
        return min(_accuracy(model, source, data, threat) for source in static)

    return score


def _accuracy(model: nn.Module, source: nn.Module, data: Labelled, threat: ThreatModel) -> float:
    with attacked(model):
        hits = [
            (model(one_step(source, x, threat)).argmax(1) == y).sum()
            for x, y in data.batches(BATCH)
        ]
    return int(torch.stack(hits).sum()) / len(data)
