"""A classifier and a detector attacked as one (Carlini and Wagner, https://arxiv.org/abs/1705.07263).

Shapes: B images (B, ...), K classes.
"""

import torch
from torch import Tensor

from attacks.gradient import draws
from hardening.attack import stands
from hardening.threat import Model


def joint(classifier: Model, detector: Model, threshold: float = 0.0) -> Model:
    """K + 1 logits, the last of which is highest exactly where the detector rejects the image.

    With classifier logits Z and detector score D, the last one is (D - threshold + 1) * max Z. Z is
    shifted first so that its least entry is 1: with a negative maximum the formula would turn
    around. A point counts as fooling only if it is misclassified and not rejected.

    Untargeted losses take a rejection for a success: search with `undetected(attack)`, or aim at a
    class.

    Args:
        classifier: Gives logits (B, K).
        detector: Gives scores (B,), differentiably; higher means more suspicious.
        threshold: Highest score that is let through.
    """
    return _Joint(classifier, detector, threshold)


class _Joint:
    def __init__(self, classifier: Model, detector: Model, threshold: float) -> None:
        self.classifier, self.detector, self.threshold = classifier, detector, threshold
        self.draws = draws(classifier)

    def __call__(self, x: Tensor) -> Tensor:
        """Logits (B, K + 1)."""
        logits = self.classifier(x)
        logits = logits - logits.amin(1, keepdim=True) + 1
        excess = self.detector(x) - self.threshold
        rejection = (excess + 1) * logits.amax(1)
        return torch.cat([logits, rejection[:, None]], dim=1)

    @torch.no_grad()
    def stands(self, points: Tensor, logits: Tensor, y: Tensor) -> Tensor:
        """Whether each point is still classified as `y` or rejected, (B,) bool."""
        standing = stands(self.classifier, points, logits[:, :-1], y)
        wrong = (~standing).nonzero()[:, 0]
        if len(wrong):
            standing[wrong] = self.detector(points[wrong]) > self.threshold
        return standing
