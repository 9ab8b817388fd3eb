"""Fast-BAT: single-step training that knows how its step depends on the weights,
https://arxiv.org/abs/2112.12376.

Shapes: B images, C channels, H x W pixels, K classes.
"""

from typing import Annotated, NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from defenses.attacked import attacked, still
from defenses.declaration import declares
from defenses.scores import robust_accuracy
from defenses.training import Loop, Loss, fit
from hardening.data import TrainingData
from hardening.log import Log
from hardening.threat import ThreatModel

EDGE = 1e-7
"""Pixel units: what the projection moved by less was held by no bound."""


@declares(
    "trains on a gradient step and through how that step depends on the weights",
    due=("white-box", "gradient-free"),
    status="AT-BASED",
    passes=lambda params: params["loop"].passes(6),
    claim="bi-level optimisation without signs is more robust than other single-step "
    "training and does not collapse",
)
def fast_bat(
    model: nn.Module,
    data: TrainingData,
    threat: ThreatModel,
    rng: torch.Generator,
    log: Log,
    /,
    *,
    curvature: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 10.0,
    reach: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0,
    loop: Loop = Loop(),  # noqa: B008
) -> nn.Module:
    """Minimise CE(w, d(w)), where d(w) = P(z + step x gradient of CE(w, z)) without a sign.

    Its gradient has a second term, (1 / curvature) x the mixed derivative of CE at z, applied to
    the pixels that no bound holds, one backward pass through a backward pass. The paper's step is
    tuned to photographs; here a pixel with the median gradient moves `reach` x eps.
    The gain over `n_fgsm` is small and costs three times its time.

    Args:
        curvature: Of the penalty that stands for the inner problem's second order: the larger, the
            smaller the second term.
        reach: Length of the step of a pixel with the median gradient, in multiples of eps; the
            larger, the more pixels end on a bound and drop out of the second term. A training step
            costs about 6 plain ones.
    """
    free = torch.zeros(2, dtype=torch.float64)
    loss = bilevel(rng, free, curvature=curvature, reach=reach)
    score = robust_accuracy(threat, rng)
    trained = fit(
        model,
        data,
        loss,
        score,
        rng,
        log,
        loop=loop,
        threat=threat,
        memory={"free": free},
        single_step=True,
    )
    log.line(f"fast_bat: {float(free[0] / free[1]):.0%} of the pixels were free of bounds")
    return trained


def bilevel(rng: torch.Generator, free: Tensor, *, curvature: float, reach: float) -> Loss:
    """The mean cross entropy at d(w), with the gradient of both of its terms.

    Args:
        free: Mean share of pixels that no bound holds, summed over batches, and batches; counts on.
    """

    def loss(model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel | None) -> Tensor:
        assert threat is not None
        z = threat.sample(x, rng)
        z = one_step(model, x, y, z, threat, reach=reach).x_adv
        inner = one_step(model, x, y, z, threat, reach=reach)
        free.add_(torch.tensor([float(inner.free.float().mean()), 1.0]))
        return with_implicit_term(model, y, z, inner, curvature)

    return loss


class Step(NamedTuple):
    """Where the inner step ended, (B, C, H, W), and which numbers no bound held there, bool."""

    x_adv: Tensor
    free: Tensor


def one_step(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    z: Tensor,
    threat: ThreatModel,
    /,
    *,
    reach: float,
) -> Step:
    """From `z` (B, C, H, W) along the gradient itself, projected on the set around `x`.

    In Linf a number with the median gradient moves `reach` x eps, else an image with the median
    gradient does: beyond eps a bound holds what moves.
    """
    with attacked(model):
        z = z.detach().requires_grad_()
        total = F.cross_entropy(model(z), y, reduction="sum")
        (slope,) = torch.autograd.grad(total, z)
    origin = torch.zeros_like(slope)
    sizes = slope.abs() if threat.norm == "linf" else threat.distance(origin, slope)
    sizes = sizes[sizes > 0]
    length = reach * threat.eps / float(sizes.median()) if len(sizes) else 0.0
    wanted = z.detach() + length * slope
    x_adv = threat.project(x, wanted)
    return Step(x_adv, (x_adv - wanted).abs() <= EDGE)


def with_implicit_term(
    model: nn.Module, y: Tensor, z: Tensor, inner: Step, curvature: float
) -> Tensor:
    """Mean cross entropy at the inner step's end; its gradient follows the step's own, too."""
    x_adv = inner.x_adv.detach().requires_grad_()
    value = F.cross_entropy(model(x_adv), y)
    (outer,) = torch.autograd.grad(value, x_adv, retain_graph=True)
    pull = (outer * inner.free).detach() / curvature
    with still(model):
        z = z.detach().requires_grad_()
        total = F.cross_entropy(model(z), y, reduction="sum")
        (slope,) = torch.autograd.grad(total, z, create_graph=True)
    cross = (slope * pull).sum()
    # Adds its gradient and leaves the value that of the cross entropy.
    return value + cross - cross.detach()
