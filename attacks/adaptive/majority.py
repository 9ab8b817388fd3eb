"""A random model that has the last word: the majority of many answers.

Shapes: B images (B, ...), K classes.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from attacks.gradient import check_logits
from attacks.parameters import Count
from hardening.threat import Model

SILENT = 1e-6
"""Share of the votes that a class without any is taken to have: its logarithm is finite."""


def majority(model: Model, *, draws: Count = 25) -> Model:
    """A random model asked `draws` times: logits are the logarithms of the shares of the votes.

    A point stands while more than half of the answers are its label: the plurality of less would
    be wrong more often than right in any single answer. A pass costs `draws`.

    Args:
        draws: Passes that make one answer; odd numbers know no tie of two classes.
    """
    return _Majority(model, draws)


class _Majority:
    def __init__(self, model: Model, asked: int) -> None:
        self.model, self.asked = model, asked

    @torch.no_grad()
    def __call__(self, x: Tensor) -> Tensor:
        """Logits (B, K), the logarithms of numbers that sum to about 1."""
        return (
            torch.stack([self._vote(x) for _ in range(self.asked)]).mean(0).clamp(min=SILENT).log()
        )

    def stands(self, points: Tensor, logits: Tensor, y: Tensor) -> Tensor:  # noqa: ARG002
        """Whether more than half of the votes behind `logits` were for `y`, (B,) of bool."""
        return logits.gather(1, y[:, None])[:, 0].exp() > 0.5

    def _vote(self, x: Tensor) -> Tensor:
        logits = self.model(x)
        check_logits(logits, x)
        return F.one_hot(logits.argmax(1), logits.shape[1]).to(x.dtype)
