"""Logit rescaling, against saturated losses (Carlini and Wagner, https://arxiv.org/abs/1607.04311).

Shapes: B images (B, ...), K classes.
"""

from torch import Tensor

from attacks.gradient import draws
from hardening.attack import stands
from hardening.threat import Model


def rescaled(model: Model) -> Model:
    """A model with the same answers, whose logits are close enough for cross entropy not to vanish.

    Logit z_k becomes -log(1 + max z - z_k): the highest one stays the only zero, and the order
    stays. Cross entropy then falls with the gap between two logits like its inverse, not
    exponentially, whatever their scale, and still rises as the label loses ground; so its values at
    different points can be compared, as after a division by each point's own scale they could not.
    A pass costs one pass.
    """
    return _Rescaled(model)


class _Rescaled:
    def __init__(self, model: Model) -> None:
        self.model, self.draws = model, draws(model)

    def __call__(self, x: Tensor) -> Tensor:
        """Logits (B, K), the highest of them zero."""
        logits = self.model(x)
        return -(logits.amax(1, keepdim=True) - logits).log1p()

    def stands(self, points: Tensor, logits: Tensor, y: Tensor) -> Tensor:
        """As the model itself judges, (B,) bool."""
        return stands(self.model, points, logits, y)
