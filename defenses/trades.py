"""TRADES, https://arxiv.org/abs/1901.08573.

Shapes: B images, C channels, H x W pixels, K classes.
"""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from defenses.attacked import attacked
from defenses.declaration import declares
from defenses.divergence import divergence
from defenses.inner import beside, maximise
from defenses.scores import robust_accuracy
from defenses.training import Loop, Loss, fit
from hardening.data import TrainingData
from hardening.log import Log
from hardening.threat import ThreatModel


@declares(
    "keeps logits alike around each image",
    due=("white-box", "gradient-free"),
    status="SOLID",
    passes=lambda params: params["loop"].passes(params["steps"] + 2),
    claim="robust error is natural error and boundary error; trading them off beats "
    "training on adversarial images alone",
)
def trades(
    model: nn.Module,
    data: TrainingData,
    threat: ThreatModel,
    rng: torch.Generator,
    log: Log,
    /,
    *,
    beta: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 6.0,
    steps: Annotated[int, Field(ge=1)] = 7,
    loop: Loop = Loop(),  # noqa: B008
) -> nn.Module:
    """Minimise cross entropy + beta x the worst divergence between clean and adversarial outputs.

    Args:
        beta: Weight of the divergence; more of it buys robustness for clean accuracy.
        steps: Of the inner ascent, each 2.5 eps / steps long; a training step costs steps + 2.
    """
    loss = trade(rng, beta=beta, steps=steps)
    score = robust_accuracy(threat, rng)
    return fit(model, data, loss, score, rng, log, loop=loop, threat=threat)


def trade(rng: torch.Generator, *, beta: float, steps: int) -> Loss:
    """Cross entropy on clean images + beta x KL(clean || worst), mean over the batch."""

    def loss(model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel | None) -> Tensor:
        assert threat is not None
        x_adv = farthest(model, x, threat, rng, steps=steps)
        clean = model(x)
        drift = divergence(clean.log_softmax(1), model(x_adv).log_softmax(1)).mean()
        return F.cross_entropy(clean, y) + beta * drift

    return loss


def farthest(
    model: nn.Module, x: Tensor, threat: ThreatModel, rng: torch.Generator, /, *, steps: int
) -> Tensor:
    """Images (B, C, H, W) around `x` whose answers diverge most from those at `x`."""
    with attacked(model):
        # The clean side does not move during the ascent: computed once.
        with torch.no_grad():
            target = model(x).log_softmax(1)

        def objective(x_adv: Tensor) -> Tensor:
            return divergence(target, model(x_adv).log_softmax(1)).sum()

        step = 2.5 * threat.eps / steps
        return maximise(objective, x, beside(x, threat, rng), threat, steps=steps, step=step)
