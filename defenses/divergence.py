"""How far two answers are apart.

Shapes: B images, K classes.
"""

from torch import Tensor
from torch.nn import functional as F


def divergence(first: Tensor, second: Tensor) -> Tensor:
    """KL(first || second) in nats, (B,), of log-probabilities (B, K)."""
    return F.kl_div(second, first, log_target=True, reduction="none").sum(1)
