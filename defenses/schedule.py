"""Numbers that change over a training, as functions of the optimizer step."""

WARM_UP = 0.3
"""Share of the steps in which the learning rate rises."""


def one_cycle(step: int, total: int) -> float:
    """Factor on the learning rate: linear from 0 to 1 and back, Smith 2018,
    https://arxiv.org/abs/1803.09820.
    """
    peak = WARM_UP * total
    return min(1.0, (step + 1) / peak, (total - step) / (total - peak))


def ramp(step: int, total: int, share: float) -> float:
    """Factor on eps: grows linearly over `share` of the steps, then stays 1. Never 0."""
    return min(1.0, (step + 1) / max(share * total, 1))


def decay(step: int, limit: float) -> float:
    """Weight of the past in an average of weights after `step` updates; short at the beginning."""
    return min(limit, (1 + step) / (10 + step))
