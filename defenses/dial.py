"""The dial between the given and the hardened weights, https://arxiv.org/abs/2109.01903.

It holds only where the hardened ones were trained from the given ones.
"""

from copy import deepcopy

import torch
from torch import nn

from defenses.scores import clean_accuracy
from hardening.data import Labelled
from hardening.errors import BrokenPromise
from hardening.log import Log

STOPS = 10
"""Positions of the dial beyond the given weights."""


def keep_clean(
    before: nn.Module, after: nn.Module, validation: Labelled, floor: float, log: Log
) -> nn.Module:
    """The farthest stop from `before` to `after` with a clean accuracy of at least `floor`.

    Raises:
        BrokenPromise: No stop has it.
    """
    seen = []
    for stop in range(STOPS, 0, -1):
        share = stop / STOPS
        model = between(before, after, share)
        seen.append(clean_accuracy(model, validation))
        if seen[-1] >= floor:
            log.chose(
                f"keep_clean: {share:.0%} of the way, clean validation accuracy {seen[-1]:.1%}"
            )
            return model
    raise BrokenPromise(
        f"keep_clean: got a clean validation accuracy of at most {max(seen):.1%} on the way from "
        f"the given to the hardened weights, expected {floor:.1%}: lower it, or train longer"
    )


@torch.no_grad()
def between(before: nn.Module, after: nn.Module, share: float) -> nn.Module:
    """Weights and buffers (1 - share) x before + share x after, each end to the bit.

    Statistics of batch normalisation go along with the weights. Integers, counters say, are
    `after`'s: an average of them is none.
    """
    mixed = deepcopy(after)
    old, new = before.state_dict(), after.state_dict()
    mixed.load_state_dict(
        {
            name: torch.lerp(old[name], value, share) if value.is_floating_point() else value
            for name, value in new.items()
        }
    )
    return mixed
