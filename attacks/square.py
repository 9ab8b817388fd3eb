"""Square attack: random search by scores alone, https://arxiv.org/abs/1912.00049."""

from bisect import bisect_left

import torch
from torch import Tensor

from attacks.gradient import look
from attacks.losses import margin
from attacks.parameters import Count, Share
from attacks.proposals import PROPOSALS
from attacks.search import Search, rows
from hardening.attack import Found, describes
from hardening.threat import Model, ThreatModel, per_image

HALVINGS = (0.001, 0.005, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8)
"""Shares of the budget after which the squares' area is halved (the paper's, of 10,000 queries)."""

CHUNK = 100  # queries for which random numbers are drawn at a time


@describes("scores", norms=("linf", "l2", "l1"))
@torch.no_grad()
def square(
    model: Model,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    rng: torch.Generator,
    /,
    *,
    queries: Count = 1000,
    p: Share = 0.8,
) -> Found:
    """Change squares at random places, keep what raises the margin loss; (B, C, H, W).

    Needs no gradients. The first point that fools is kept; an image that no point fools gets its
    point of highest loss. Costs `queries` forward passes for the images that still stand.

    Args:
        queries: Forward passes per image.
        p: Share of the image that the first squares cover.

    Raises:
        ValueError: The images are not (B, C, H, W).
        ModelError: The model does not return logits (B, K).
        NumericsError: A logit is not finite.
    """
    if x.ndim != 4:
        raise ValueError(f"square: got inputs of shape {tuple(x.shape)}, expected (B, C, H, W)")
    scheme = PROPOSALS[threat.norm]
    draws = scheme.places + x.shape[1]
    search = Search(model, x, y, margin, rng)
    best = proposal = scheme.start(threat, search.x, search.uniform)
    best_loss = best.new_full((len(best),), -float("inf"))
    numbers = search.uniform(0)
    for query in range(queries):
        if search.done:
            return search.found
        if query > 0:
            turn = (query - 1) % CHUNK
            if turn == 0:
                numbers = search.uniform(CHUNK * draws).view(-1, CHUNK, draws)
            area = p / 2 ** bisect_left(HALVINGS, query / queries)
            proposal = scheme.change(threat, search.x, best, area, numbers[:, turn])
        logits, losses = look(model, proposal, margin, search.y)
        stands = search.settle(proposal, logits)
        kept = rows(stands, proposal, losses, best, best_loss, numbers)
        proposal, losses, best, best_loss, numbers = kept
        better = losses > best_loss
        best = torch.where(per_image(better, best), proposal, best)
        best_loss = torch.where(better, losses, best_loss)
    search.offer(best, best_loss)
    return search.found
