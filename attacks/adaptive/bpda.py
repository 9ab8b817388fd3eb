"""Backward pass differentiable approximation, https://arxiv.org/abs/1802.00420.

Shapes: B images (B, ...), K classes.
"""

from torch import Tensor

from attacks.adaptive.straight_through import Function, straight_through
from attacks.gradient import draws
from hardening.attack import stands
from hardening.threat import Model


def bpda(prepare: Function, model: Model, backward: Function | None = None) -> Model:
    """`model` behind `prepare`, exact forward, differentiable backward.

    For a preprocessing without useful gradients: JPEG, bit depths, thresholds. The gradient of
    `prepare` is taken to be the identity's, or that of `backward`, which imitates it. Costs what
    the model costs, and one `prepare`.

    Raises:
        ValueError: When called: `prepare` changes the shape and no `backward` does so, too.
    """
    return _Behind(prepare, model, backward)


class _Behind:
    def __init__(self, prepare: Function, model: Model, backward: Function | None) -> None:
        self.prepare, self.model, self.draws = prepare, model, draws(model)
        self.through = straight_through(prepare, backward)

    def __call__(self, x: Tensor) -> Tensor:
        """Logits (B, K) of the prepared images."""
        return self.model(self.through(x))

    def stands(self, points: Tensor, logits: Tensor, y: Tensor) -> Tensor:
        """As the model itself judges the prepared points, (B,) bool."""
        return stands(self.model, self.prepare(points), logits, y)
