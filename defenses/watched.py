"""A classifier watched by a detector on one of its activations.

Shapes: B images (B, C, H, W), K classes; activations (B, C', H', W'); scores (B,).
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from attacks.adaptive import joint, undetected
from attacks.parameters import Count
from defenses.scores import BATCH
from hardening.attack import Attack
from hardening.data import Labelled
from hardening.models.form import Form
from hardening.randomness import seeded
from hardening.spec import Spec
from hardening.threat import Model


def watching(
    parts: Sequence[nn.Module], *, layer: str, channels: Count, width: Count, pools: int
) -> "Watched":
    """The form: where it looks, and how large the detector is."""
    with seeded(0):
        net = network(channels, width, pools)
    return Watched(parts, net, layer, channels=channels, width=width, pools=pools)


class Watched(Form):
    """A classifier, a detector on one of its activations, and the threshold of rejection."""

    through = (Spec(name="joint"), Spec(name="undetected"))
    rejects = True
    threshold: Tensor

    def __init__(
        self,
        parts: Sequence[nn.Module],
        net: nn.Module,
        layer: str,
        *,
        channels: int,
        width: int,
        pools: int,
    ) -> None:
        sizes = {"channels": channels, "width": width, "pools": pools}
        super().__init__(Spec(name="detector", params={"layer": layer, **sizes}), parts)
        self.layer, self.net = layer, net
        self.register_buffer("threshold", torch.zeros(()))

    def train(self, mode: bool = True) -> "Watched":
        """The classifier is in eval mode in any case: not even its statistics may change."""
        super().train(mode)
        self.parts.eval()
        return self

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, K) of the classifier alone."""
        logits: Tensor = self.parts[0](x)
        return logits

    def suspicion(self, x: Tensor) -> Tensor:
        """Scores (B,), higher for what looks more attacked."""
        seen: list[Tensor] = []
        watched = self.parts[0].get_submodule(self.layer)
        handle = watched.register_forward_hook(lambda _, __, output: seen.append(output))
        try:
            self.parts[0](x)
        finally:
            handle.remove()
        score: Tensor = self.net(seen[-1])[:, 0]
        return score

    def judge(self) -> Model:
        """Both as one, which is fooled by what is misclassified and not rejected."""
        return joint(self, self.suspicion, float(self.threshold))

    def informed(self) -> Model:
        """Both as one: their gradients are followed together."""
        return self.judge()

    def adapted(self, attack: Attack) -> Attack:
        """`attack`, for any class but the label and rejection."""
        return undetected(attack)

    def careless(self) -> Model:
        """The classifier alone."""
        return self.parts[0]

    @torch.no_grad()
    def set_threshold(self, clean: Labelled, false_positives: float) -> None:
        """Reject at most this share of `clean` images: those with the highest scores."""
        place = self.threshold.device
        scores = torch.cat([self.suspicion(x.to(place)) for x, _ in clean.batches(BATCH)])
        allowed = int(false_positives * len(scores))
        self.threshold.copy_(scores.sort(descending=True).values[allowed])


def network(channels: int, width: int, pools: int) -> nn.Sequential:
    """Three convolutions, the first `pools` of which are pooled, a score per pixel, their mean."""
    layers: list[nn.Module] = []
    for place, (before, after) in enumerate(
        ((channels, width), (width, 2 * width), (2 * width, 2 * width))
    ):
        layers += [nn.Conv2d(before, after, 3, padding=1, bias=False), nn.BatchNorm2d(after)]
        layers += [nn.ReLU(), *([nn.MaxPool2d(2)] if place < pools else [])]
    last = nn.Conv2d(2 * width, 1, 1)
    return nn.Sequential(*layers, last, nn.AdaptiveAvgPool2d(1), nn.Flatten())
