"""Auto-PGD: projected ascent that finds its own step size, https://arxiv.org/abs/2003.01690.

Shapes: B images in the batch, b of them still standing.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from attacks.gradient import differentiate, look
from attacks.losses import LOSSES, Loss
from attacks.parameters import Count, Share
from attacks.search import Search, rows
from hardening.threat import Model, ThreatModel, per_image

MOMENTUM = 0.75
START_STEP = 2.0  # in units of eps
FIRST_WINDOW, SHRINK, LAST_WINDOW = 0.22, 0.03, 0.06  # fractions of the steps


def apgd(
    model: Model,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    rng: torch.Generator,
    /,
    *,
    steps: Count = 100,
    restarts: Count = 1,
    loss: Loss = "ce",
    rho: Share = 0.75,
) -> Tensor:
    """Momentum steps that are halved, from the best point on, when they stop paying, (B, ...).

    The first point that fools is kept; an image that no point fools gets its point of highest loss.
    Costs `steps` forward and backward passes and one forward pass a restart, for the images that
    still stand.

    Args:
        steps: Gradient evaluations per restart.
        restarts: Independent random starts.
        loss: What the steps raise.
        rho: Share of a window's steps that must raise the loss, or the step size is halved.

    Raises:
        ModelError: The model has no gradients or does not return logits (B, K).
        NumericsError: A logit or a gradient is not finite.
    """
    objective = LOSSES[loss]
    windows = _windows(steps)
    search = Search(model, x, y, objective, rng)
    for _ in range(restarts):
        run = _begin(search.sample(threat), threat)
        for i in range(steps):
            if search.done:
                return search.result
            logits, losses, gradient = differentiate(model, run.points, search.y, objective)
            stands = search.settle(run.points, logits)
            losses, gradient, *state = rows(stands, losses, gradient, *run)
            run = _observe(_Run(*state), losses, gradient)
            if i in windows:
                run = _halve_where_stuck(run, rho * windows[i])
            run = _move(run, search.x, threat, MOMENTUM if i > 0 else 1.0)
        if search.done:
            return search.result
        logits, losses = look(model, run.points, search.y, objective)
        losses, *state = rows(search.settle(run.points, logits), losses, *run)
        run = _Run(*state)
        search.offer(run.best, run.best_loss)
        search.offer(run.points, losses)
    return search.result


class _Run(NamedTuple):
    """State of one restart, a row per standing image."""

    points: Tensor
    previous: Tensor
    gradient: Tensor
    loss: Tensor
    step: Tensor
    best: Tensor
    best_gradient: Tensor
    best_loss: Tensor
    best_loss_at_check: Tensor
    rises: Tensor
    halved: Tensor


def _windows(steps: int) -> dict[int, int]:
    """Iterations at which progress is judged, and how many steps each judgement is about."""
    window, shrink, last = (
        max(int(share * steps), 1) for share in (FIRST_WINDOW, SHRINK, LAST_WINDOW)
    )
    windows, end = {}, window
    while end < steps:
        windows[end] = window
        window = max(window - shrink, last)
        end += window
    return windows


def _begin(points: Tensor, threat: ThreatModel) -> _Run:
    unknown = points.new_full((len(points),), float("inf"))
    return _Run(
        points=points,
        previous=points,
        gradient=torch.zeros_like(points),
        loss=unknown,  # no step has been made that could have raised it
        step=torch.full_like(unknown, START_STEP * threat.eps),
        best=points,
        best_gradient=torch.zeros_like(points),
        best_loss=-unknown,
        best_loss_at_check=-unknown,
        rises=torch.zeros_like(unknown),
        halved=torch.ones_like(unknown, dtype=torch.bool),  # the first window has no predecessor
    )


def _observe(run: _Run, losses: Tensor, gradient: Tensor) -> _Run:
    """Note the losses (b,) and gradients (b, ...) at the points."""
    better = losses > run.best_loss
    wide = per_image(better, gradient)
    return run._replace(
        gradient=gradient,
        rises=run.rises + (losses > run.loss),
        loss=losses,
        best=torch.where(wide, run.points, run.best),
        best_gradient=torch.where(wide, gradient, run.best_gradient),
        best_loss=torch.where(better, losses, run.best_loss),
    )


def _halve_where_stuck(run: _Run, enough: float) -> _Run:
    """Halve the step and go back to the best point where too few steps of the window paid.

    Stuck is, too, who kept the step size at the last check and has found nothing better since.
    """
    stuck = (run.rises < enough) | (~run.halved & (run.best_loss_at_check >= run.best_loss))
    wide = per_image(stuck, run.points)
    return run._replace(
        points=torch.where(wide, run.best, run.points),
        gradient=torch.where(wide, run.best_gradient, run.gradient),
        loss=torch.where(stuck, run.best_loss, run.loss),
        step=torch.where(stuck, run.step / 2, run.step),
        best_loss_at_check=run.best_loss,
        rises=torch.zeros_like(run.rises),
        halved=stuck,
    )


def _move(run: _Run, x: Tensor, threat: ThreatModel, momentum: float) -> _Run:
    """One step of steepest ascent, drawn towards the direction of the last one."""
    stride = per_image(run.step, x) * threat.ascend(run.gradient)
    ascent = threat.project(x, run.points + stride) - run.points
    points = run.points + momentum * ascent + (1 - momentum) * (run.points - run.previous)
    return run._replace(points=threat.project(x, points), previous=run.points)
