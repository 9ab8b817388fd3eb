"""Untargeted attacks on a model with a class for rejected images.

Shapes: B images (B, ...), K classes and one more, the last, for rejection.
"""

import torch
from torch import Tensor

from attacks.gradient import draws
from hardening.attack import Attack, Found, facts, stands
from hardening.threat import Model, ThreatModel


def undetected(attack: Attack) -> Attack:
    """`attack`, for any class but the label and the last one, which means rejection.

    Label by label it attacks K logits: the higher of the label's and the rejection's, which both
    defend, and the other classes'. So every loss rises as the image gets nearer to being
    misclassified and let through. Costs what `attack` costs.
    """

    def informed(
        model: Model, x: Tensor, y: Tensor, threat: ThreatModel, rng: torch.Generator, /
    ) -> Found:
        x_adv, step = x.detach().clone(), torch.zeros_like(y)
        # A seed for each label, in order: no label's images shift the numbers of another's.
        for label in range(int(y.max()) + 1 if len(y) else 0):
            seed = int(torch.randint(2**62, (1,), generator=rng, device=rng.device))
            own = torch.Generator(rng.device).manual_seed(seed)
            mine = y == label
            if mine.any():
                first = torch.zeros_like(y[mine])
                x_adv[mine], step[mine] = attack(
                    _Against(model, label), x[mine], first, threat, own
                )
        return Found(x_adv, step)

    informed.facts = facts(attack)  # type: ignore[attr-defined]
    return informed


class _Against:
    def __init__(self, model: Model, label: int) -> None:
        self.model, self.label, self.draws = model, label, draws(model)

    def __call__(self, x: Tensor) -> Tensor:
        """Logits (B, K): of the defence first, then of the classes that are not the label."""
        logits, label = self.model(x), self.label
        defence = torch.maximum(logits[:, label], logits[:, -1])[:, None]
        return torch.cat([defence, logits[:, :label], logits[:, label + 1 : -1]], dim=1)

    def stands(
        self,
        points: Tensor,
        logits: Tensor,
        y: Tensor,
    ) -> Tensor:
        """As the model itself judges, (B,) bool; `y` is zero everywhere."""
        defence, others = logits[:, :1], logits[:, 1:]
        before, after = others[:, : self.label], others[:, self.label :]
        back = torch.cat([before, defence, after, defence], dim=1)
        return stands(self.model, points, back, y + self.label)
