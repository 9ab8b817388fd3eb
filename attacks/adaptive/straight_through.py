"""Straight-through estimation, https://arxiv.org/abs/1308.3432."""

from collections.abc import Callable

from torch import Tensor

Function = Callable[[Tensor], Tensor]
"""Maps a tensor to a tensor."""


def straight_through(function: Function, backward: Function | None = None) -> Function:
    """`function` itself, bit for bit, with the gradient of something that has one.

    For rounding, quantisers, thresholds and codecs. The gradient is the identity's, or that of
    `backward`, a differentiable function whose values are near those of `function`.

    Raises:
        ValueError: When called: the values of `function` and of what replaces it differ in shape.
    """

    def through(x: Tensor) -> Tensor:
        exact = function(x.detach()).detach()
        stand_in = x if backward is None else backward(x)
        if exact.shape != stand_in.shape:
            raise ValueError(
                f"got {tuple(exact.shape)} from a function and {tuple(stand_in.shape)} from what "
                "gives its gradient, expected equal shapes"
            )
        # The difference is zero: adding it changes no bit and carries the gradient.
        return exact + (stand_in - stand_in.detach())

    return through
