"""Training on interval bounds: IBP, https://arxiv.org/abs/1810.12715, and CROWN-IBP,
https://arxiv.org/abs/1906.06316.

Shapes: B images, C channels, H x W pixels, K classes.
"""

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from defenses.attacked import attacked
from defenses.bounds import chain, differences, reached
from defenses.crown import linear_chain, margins
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
    passes=lambda params: params["loop"].passes(3 if params["bounds"] == "interval" else 14),
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
    bounds: Literal["interval", "crown"] = "interval",
    loop: Loop = LONG,
) -> nn.Module:
    """Minimise kappa x CE(logits) + (1 - kappa) x CE(worst logits of the interval bounds).

    For small networks, and best for images of one channel. `evaluation.certify` with `interval`
    proves what of it holds for the exported file. An L2 or L1 ball is replaced by the box around
    it, which for all but tiny eps cannot be trained against: use `smoothing` there.

    Args:
        kappa: Share of the plain cross entropy once eps is full; at the start it is 1.
        bounds: With `crown`, the tighter bounds of CROWN-IBP lead while eps grows and those of
            the intervals take over as it becomes full. Four to five times the cost for ten classes:
            worth it for few epochs, equal after many.

    Raises:
        ModelError: The network is no chain of layers, or an ONNX file's twin; or, for `crown`,
            it has an activation other than ReLU, or max pooling.
    """
    chain(model)
    if bounds == "crown":
        linear_chain(model)
    score = verified_accuracy(threat)
    loss = bounded(threat, kappa=kappa, crown=bounds == "crown")
    return fit(model, data, loss, score, rng, log, loop=loop, threat=threat)


def bounded(full: ThreatModel, *, kappa: float, crown: bool = False) -> Loss:
    """The mean over a batch; the share of bounds grows along with eps, that of CROWN falls."""

    def loss(model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel | None) -> Tensor:
        assert threat is not None
        _, last = chain(model)
        states = reached(model, x, threat)
        apart = _of_labels(differences(last, states[-1]), y)
        part = threat.eps / full.eps
        if crown and part < 1:
            apart = part * apart + (1 - part) * margins(model, states, y)
        share = (1 - kappa) * part
        worst = F.cross_entropy(-apart, y)
        return (1 - share) * F.cross_entropy(last(states[-1].exact), y) + share * worst

    return loss


def verified_accuracy(threat: ThreatModel) -> Score:
    """A score: share of images that the bounds, in float32, prove right."""

    def score(model: nn.Module, data: Labelled) -> float:
        hits = 0
        _, last = chain(model)
        with attacked(model), torch.no_grad():
            for x, y in data.batches(BATCH):
                apart = _of_labels(differences(last, reached(model, x, threat)[-1]), y)
                others = apart.scatter(1, y[:, None], torch.inf)
                hits += int((others.amin(1) > 0).sum())
        return hits / len(data)

    return score


def _of_labels(apart: Tensor, y: Tensor) -> Tensor:
    """How far at least each label's logit is above the others, (B, K); 0 at itself."""
    return apart[torch.arange(len(y), device=y.device), y]
