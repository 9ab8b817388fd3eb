"""Training on interval bounds, Gowal et al. 2018, https://arxiv.org/abs/1810.12715.

Shapes: B images, C channels, H x W pixels, K classes.
"""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from defenses.attacked import attacked
from defenses.bounds import chain, reach
from defenses.declaration import declares
from defenses.scores import BATCH, Score
from defenses.training import Loop, Loss, fit
from hardening.data import Labelled, TrainingData
from hardening.log import Log
from hardening.threat import ThreatModel

LONG = Loop(epochs=60, ramp=0.6)
"""Bounds of a trained network are useless at first and need many epochs with a growing eps."""


@declares(
    "trains on the worst logits that interval arithmetic cannot exclude",
    due=("white-box", "gradient-free"),
    status="CERTIFIED",
    passes=lambda params: params["loop"].passes(3),
    claim="training on interval bounds gives networks that are verified to be robust",
)
def interval_training(
    model: nn.Module,
    data: TrainingData,
    threat: ThreatModel,
    rng: torch.Generator,
    log: Log,
    /,
    *,
    kappa: Annotated[float, Field(ge=0, le=1)] = 0.5,
    loop: Loop = LONG,
) -> nn.Module:
    """Minimise kappa x CE(logits) + (1 - kappa) x CE(worst logits of the interval bounds).

    For small networks, and best for images of one channel. `evaluation.certify` with `interval`
    proves what of it holds for the exported file. An L2 or L1 ball is replaced by the box around
    it, which for all but tiny eps cannot be trained against: use `smoothing` there.

    Args:
        kappa: Share of the plain cross entropy once eps is full; at the start it is 1.

    Raises:
        ModelError: The network is no chain of layers, or an ONNX file's twin.
    """
    chain(model)
    score = verified_accuracy(threat)
    loss = bounded(threat, kappa=kappa)
    return fit(model, data, loss, score, rng, log, loop=loop, threat=threat)


def bounded(full: ThreatModel, *, kappa: float) -> Loss:
    """The mean over a batch; the share of bounds grows along with eps."""

    def loss(model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel | None) -> Tensor:
        assert threat is not None
        logits, apart = reach(model, x, threat)
        share = (1 - kappa) * threat.eps / full.eps
        worst = F.cross_entropy(-_of_labels(apart, y), y)
        return (1 - share) * F.cross_entropy(logits, y) + share * worst

    return loss


def verified_accuracy(threat: ThreatModel) -> Score:
    """A score: share of images that the bounds, in float32, prove right."""

    def score(model: nn.Module, data: Labelled) -> float:
        hits = 0
        with attacked(model), torch.no_grad():
            for x, y in data.batches(BATCH):
                apart = _of_labels(reach(model, x, threat)[1], y)
                others = apart.scatter(1, y[:, None], torch.inf)
                hits += int((others.amin(1) > 0).sum())
        return hits / len(data)

    return score


def _of_labels(apart: Tensor, y: Tensor) -> Tensor:
    """How far at least each label's logit is above the others, (B, K); 0 at itself."""
    return apart[torch.arange(len(y), device=y.device), y]
