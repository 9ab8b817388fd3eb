"""HAT: helper examples against needlessly large margins, https://openreview.net/forum?id=Azh9QBQ4tR7.

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
from defenses.scores import robust_accuracy
from defenses.trades import farthest
from defenses.training import Loop, Loss, fit
from hardening.data import TrainingData
from hardening.log import Log
from hardening.threat import ThreatModel


@declares(
    "keeps logits alike around each image and far ones as the given model labels them",
    due=("white-box", "gradient-free"),
    status="SOLID",
    passes=lambda params: params["loop"].passes(params["steps"] + 3),
    claim="helper images give clean accuracy back without loss of robustness",
)
def helper(
    model: nn.Module,
    data: TrainingData,
    threat: ThreatModel,
    rng: torch.Generator,
    log: Log,
    /,
    *,
    beta: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 2.5,
    gamma: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.5,
    reach: Annotated[float, Field(gt=1, allow_inf_nan=False)] = 2.0,
    steps: Annotated[int, Field(ge=1)] = 7,
    loop: Loop = Loop(),  # noqa: B008
) -> nn.Module:
    """Minimise the loss of TRADES + gamma x the cross entropy on helper examples.

    A helper example lies `reach` times as far from its image as the adversarial one and carries
    the label that the model given here sees in the adversarial one: so it should be an unhardened
    model, the user's own, say.

    Args:
        beta: Weight of the divergence; more of it buys robustness for clean accuracy.
        gamma: Weight of the helper examples; more of it gives clean accuracy back.
        reach: How far they lie, in multiples of the adversarial perturbation.
        steps: Of the inner ascent, each 2.5 eps / steps long; a training step costs steps + 3.
    """
    loss = helped(model, rng, beta=beta, gamma=gamma, reach=reach, steps=steps)
    score = robust_accuracy(threat, rng)
    return fit(model, data, loss, score, rng, log, loop=loop, threat=threat)


def helped(
    given: nn.Module,
    rng: torch.Generator,
    *,
    beta: float,
    gamma: float,
    reach: float,
    steps: int,
) -> Loss:
    """CE(x) + beta KL(x || x + r) + gamma CE(x + reach r, label that `given` sees in x + r)."""

    def loss(model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel | None) -> Tensor:
        assert threat is not None
        x_adv = farthest(model, x, threat, rng, steps=steps)
        with attacked(given), torch.no_grad():
            seen = given(x_adv).argmax(1)
        # Where the paper leaves the pixel range, no image of a user ever lies.
        helpers = (x + reach * (x_adv - x)).clamp(0, 1)
        clean = model(x)
        drift = divergence(clean.log_softmax(1), model(x_adv).log_softmax(1)).mean()
        margin = F.cross_entropy(model(helpers), seen)
        return F.cross_entropy(clean, y) + beta * drift + gamma * margin

    return loss
