"""Expectation over transformation, https://arxiv.org/abs/1707.07397.

Shapes: B images (B, ...), K classes.
"""

import torch
from torch import Tensor

from attacks.gradient import look
from attacks.losses import margin
from attacks.parameters import Count
from hardening.attack import stands
from hardening.threat import Model

SURE = 0.75
"""Share of fresh answers that must be wrong for a search to end. A search asks at every step, and a
bare majority is sometimes luck: of 100 digits behind stochastic pruning, 5 for which a search of 20
steps of 20 draws had ended so were mostly right when asked 150 times; with this share none was, and
1 of 40 in another run."""


def expectation(model: Model, *, draws: Count = 20) -> Model:
    """A random model attacked in the mean over its randomness.

    Logits, losses and gradients that attacks see are means over `draws` passes; so each of their
    passes costs `draws`. Where the mean of the logits is wrong, `draws` fresh answers are asked
    for, and the search is over only if three quarters of them are wrong: a lucky draw is no
    success. What it found is for `agreement` to judge.

    Args:
        draws: Passes that make one answer.
    """
    return _Expectation(model, draws)


def agreement(model: Model, points: Tensor, y: Tensor, *, draws: int = 20) -> Tensor:
    """Share of `draws` fresh answers of a random `model` at `points` (B, ...) that are `y`, (B,).

    Raises:
        ModelError: The model does not return logits (B, K).
        NumericsError: A logit is not finite.
    """
    right = torch.zeros(len(points), device=points.device)
    for _ in range(draws):
        logits, _ = look(model, points, margin, y)
        right += stands(model, points, logits, y)
    return right / draws


class _Expectation:
    def __init__(self, model: Model, draws: int) -> None:
        self.model, self.draws = model, draws

    def __call__(self, x: Tensor) -> Tensor:
        """One draw of the logits (B, K)."""
        return self.model(x)

    def stands(self, points: Tensor, logits: Tensor, y: Tensor) -> Tensor:
        """Whether more than a quarter of fresh answers at each point are still `y`, (B,) bool."""
        standing = stands(self.model, points, logits, y)
        doubtful = (~standing).nonzero()[:, 0]
        if len(doubtful):
            asked, labels = points[doubtful], y[doubtful]
            right = agreement(self.model, asked, labels, draws=self.draws)
            standing[doubtful] = right > 1 - SURE
        return standing
