"""What an attack raises: one number per image, higher means closer to a mistake.

Shapes: B images, K classes; logits (B, K), labels y (B,), losses (B,).
"""

from collections.abc import Callable
from typing import Literal

from torch import Tensor
from torch.nn import functional as F

Loss = Literal["ce", "dlr", "margin"]
LossFunction = Callable[..., Tensor]
"""`loss(logits, y)`, or more tensors with one row per image."""


def ce(logits: Tensor, y: Tensor) -> Tensor:
    """Cross entropy, (B,). Its gradient vanishes when logits are large: pair it with `dlr`."""
    return F.cross_entropy(logits, y, reduction="none")


def margin(logits: Tensor, y: Tensor) -> Tensor:
    """Highest other logit minus the label's, (B,); positive exactly when the label loses."""
    others = logits.scatter(1, y[:, None], -float("inf"))
    return others.amax(1) - logits.gather(1, y[:, None])[:, 0]


def dlr(logits: Tensor, y: Tensor) -> Tensor:
    """Difference of logits ratio, (B,), https://arxiv.org/abs/2003.01690.

    Free of the logits' scale: the margin divided by the distance between the first and the third
    logit. Two classes have no third logit; for them it is the margin.
    """
    if logits.shape[1] < 3:
        return margin(logits, y)
    top = logits.topk(3, dim=1).values
    return margin(logits, y) / (top[:, 0] - top[:, 2] + 1e-12)


def dlr_targeted(logits: Tensor, y: Tensor, target: Tensor) -> Tensor:
    """Difference of logits ratio towards one class, (B,), https://arxiv.org/abs/2003.01690.

    The target's logit minus the label's, divided by the distance between the first and the mean of
    the third and fourth logit. Fewer than four classes have no fourth; for them it is not divided.
    """
    ahead = (logits.gather(1, target[:, None]) - logits.gather(1, y[:, None]))[:, 0]
    if logits.shape[1] < 4:
        return ahead
    top = logits.topk(4, dim=1).values
    return ahead / (top[:, 0] - (top[:, 2] + top[:, 3]) / 2 + 1e-12)


def rivals(logits: Tensor, y: Tensor) -> Tensor:
    """The other classes, likeliest first, (B, K - 1)."""
    others = logits.scatter(1, y[:, None], -float("inf"))
    return others.argsort(dim=1, descending=True, stable=True)[:, :-1]


LOSSES: dict[Loss, LossFunction] = {"ce": ce, "dlr": dlr, "margin": margin}
