"""E-AT: robustness to Linf and L1, and so to L2 between them, https://arxiv.org/abs/2105.12508.

Shapes: B images, C channels, H x W pixels of d numbers, K classes.
"""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from defenses.declaration import declares
from defenses.inner import worst
from defenses.scores import robust_accuracy
from defenses.training import Loop, Loss, fit
from hardening.data import TrainingData
from hardening.errors import ConfigError
from hardening.log import Log
from hardening.threat import Eps, ThreatModel

PROPORTION = 8
"""Numbers of an image for each Linf radius in an L1 radius: the paper's 12 to 8/255 of 3072."""


@declares(
    "trains on PGD examples of Linf or L1, the one it errs on more often",
    due=("white-box", "gradient-free"),
    status="SOLID",
    passes=lambda params: params["loop"].passes(params["steps"] + 1),
    claim="fine-tuning on the two extreme norms gives robustness to all norms between them",
)
def extreme_norm(
    model: nn.Module,
    data: TrainingData,
    threat: ThreatModel,
    rng: torch.Generator,
    log: Log,
    /,
    *,
    linf: Eps | None = None,
    l1: Eps | None = None,
    steps: Annotated[int, Field(ge=1)] = 10,
    loop: Loop = Loop(),  # noqa: B008
) -> nn.Module:
    """Minimise the cross entropy on the worst image of one norm per batch, Linf or L1.

    A linear classifier robust in both is robust in the convex hull of both balls, which holds an
    L2 ball: no batch needs to be spent on it. A radius not given follows from the threat model: it
    is its eps, or in the paper's proportion to it. Meant for an already robust model: in a chain,
    after `adversarial_training`.

    Args:
        linf: Radius in this norm, in pixel units.
        l1: Radius in this norm, in pixel units.
        steps: Of PGD, each 2.5 eps / steps long; a training step costs steps + 1 plain ones.

    Raises:
        ConfigError: The threat model is L0, which says nothing of these radii.
    """
    d = data.train.images.shape[1:].numel()
    pair = extremes(threat, d, linf=linf, l1=l1)
    log.line(f"extreme norms: {pair[0]}, {pair[1]}; between them {implied(*pair)}")
    errors = torch.zeros(2, 2, dtype=torch.float64)
    loss = either(pair, threat.eps, errors, rng, steps=steps)
    score = robust_accuracy(threat, rng)
    return fit(
        model, data, loss, score, rng, log, loop=loop, threat=threat, memory={"errors": errors}
    )


def extremes(
    threat: ThreatModel, d: int, *, linf: float | None, l1: float | None
) -> tuple[ThreatModel, ThreatModel]:
    """The Linf and the L1 ball to train in, for images of `d` numbers."""
    ratio = d / PROPORTION
    if threat.norm == "l0":
        raise ConfigError(f"extreme_norm: got the threat {threat}, expected linf, l2 or l1")
    # The hull's L2 ball has about the geometric mean of both as its radius.
    small = {"linf": 1.0, "l2": ratio**-0.5, "l1": 1 / ratio}[threat.norm] * threat.eps
    return (
        ThreatModel(norm="linf", eps=linf or small),
        ThreatModel(norm="l1", eps=l1 or small * ratio),
    )


def implied(linf: ThreatModel, l1: ThreatModel) -> ThreatModel:
    """The largest L2 ball in the convex hull of both.

    Theorem 3.1 of https://arxiv.org/abs/1905.11213. Where one ball holds the other,
    it is that of the larger one.
    """
    ratio = l1.eps / linf.eps
    rest = ratio % 1
    inside = l1.eps / (ratio - rest + rest**2) ** 0.5 if ratio > 1 else linf.eps
    return ThreatModel(norm="l2", eps=inside)


def either(
    pair: tuple[ThreatModel, ThreatModel],
    eps: float,
    errors: Tensor,
    rng: torch.Generator,
    *,
    steps: int,
) -> Loss:
    """The mean cross entropy of a batch at the worst images of one of `pair`.

    Args:
        pair: At the full `eps` of the threat model; both grow with it.
        errors: Wrong and seen images so far, a row for each of `pair`; counts on.
    """

    def loss(model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel | None) -> Tensor:
        assert threat is not None
        chosen = draw(errors, rng)
        ball = pair[chosen].scaled(threat.eps / eps)
        x_adv = worst(model, x, y, ball.sample(x, rng), ball, steps=steps)
        logits = model(x_adv)
        wrong = (logits.detach().argmax(1) != y).sum()
        errors[chosen] += torch.tensor([float(wrong), float(len(y))])
        return F.cross_entropy(logits, y)

    return loss


def draw(errors: Tensor, rng: torch.Generator) -> int:
    """0 or 1, in proportion to the shares of wrong images; evenly until both were seen."""
    wrong, seen = errors.T
    shares = wrong / seen if bool(seen.all()) and bool(wrong.any()) else torch.ones(2)
    first = float(shares[0] / shares.sum())
    return int(float(torch.rand((), generator=rng, device=rng.device)) >= first)
