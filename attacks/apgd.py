"""Auto-PGD: projected ascent that finds its own step size, https://arxiv.org/abs/2003.01690.

Shapes: b images still standing, K classes.
"""

from functools import partial
from typing import Literal

import torch
from torch import Tensor

from attacks.gradient import differentiate, look
from attacks.losses import LOSSES, Loss, dlr, dlr_targeted, rivals
from attacks.pacing import PACES, Run, begin, observe, stages
from attacks.parameters import Count, Share
from attacks.search import Search, rows
from hardening.attack import Found, describes
from hardening.threat import Model, ThreatModel


@describes("gradients", norms=("linf", "l2", "l1"))
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
    loss: Loss | Literal["dlr-targeted"] = "ce",
    targets: Count = 9,
    rho: Share = 0.75,
) -> Found:
    """Steps that change their length, from the best point on, when they stop paying, (B, ...).

    The first point that fools is kept, whatever class it is taken for; an image that no point fools
    gets its point of highest loss. In L1 the steps are sparse and the first 30 % of them are made
    in the ball of twice eps (https://arxiv.org/abs/2103.01208). Costs `steps` forward
    and backward passes and one forward pass a restart, for the images that still stand; the
    targeted loss as much for each target.

    Args:
        steps: Gradient evaluations per restart.
        restarts: Independent random starts, for each target if there are any.
        loss: What the steps raise.
        targets: Classes aimed at one after the other, likeliest first; for dlr-targeted only. Never
            more than the other classes there are.
        rho: Share of a window's steps that must raise the loss, or the step size is halved; not
            used in L1.

    Raises:
        ModelError: The model has no gradients or does not return logits (B, K).
        NumericsError: A logit or a gradient is not finite.
    """
    objective = dlr_targeted if loss == "dlr-targeted" else LOSSES[loss]
    targeted = objective is dlr_targeted
    search = Search(model, x, y, dlr if targeted else objective, rng)
    ranks = range(min(targets, search.clean.shape[1] - 1) if targeted else 1)
    pace, balls = PACES[threat.norm], stages(threat, steps)
    for rank in (rank for rank in ranks for _ in range(restarts)):
        context = partial(_aimed if targeted else _labelled, search, rank)
        points = search.sample(balls[0][0])
        for ball, count in balls:
            windows = pace.windows(count)
            run = begin(ball.project(search.x, points), search.x, ball)
            for i in range(count):
                if search.done:
                    return search.found
                logits, losses, gradient = differentiate(model, run.points, objective, *context())
                # What fools in a wider ball is outside the threat model.
                stands = search.settle(run.points, logits) if ball is threat else search.skip()
                losses, gradient, *state = rows(stands, losses, gradient, *run)
                run = observe(Run(*state), losses, gradient)
                if i in windows:
                    run = pace.check(run, search.x, ball, rho * windows[i])
                run = pace.move(run, search.x, ball, i == 0)
            points = run.best
        if search.done:
            return search.found
        logits, losses = look(model, run.points, objective, *context())
        losses, *state = rows(search.settle(run.points, logits), losses, *run)
        run = Run(*state)
        search.offer(run.best, run.best_loss)
        search.offer(run.points, losses)
    return search.found


def _labelled(search: Search, _: int) -> tuple[Tensor, ...]:
    return (search.y,)


def _aimed(search: Search, rank: int) -> tuple[Tensor, ...]:
    """Labels, and the wrong classes of one rank by the clean logits, of the standing images."""
    return search.y, rivals(search.clean, search.y)[:, rank]
