"""What attacks share: which images still stand, and the best point found for each.

Shapes: B images in the batch, b of them still standing; points are like the images.
"""

import torch
from torch import Tensor

from attacks.gradient import look
from attacks.losses import LossFunction
from hardening.threat import Model, ThreatModel


class Search:
    """The book of one attack: a point that fools comes first, the highest loss second.

    An image leaves at its first success, so nothing is spent on it any more. Each image has its own
    stream of random numbers: what happens to it does not depend on the rest of the batch.

    Attributes:
        result: (B, ...) what the attack returns; an image misclassified from the start stays.
        index: (b,) places in the batch of the images still standing.
        x: (b, ...) those images.
        y: (b,) their labels.
    """

    def __init__(
        self, model: Model, x: Tensor, y: Tensor, loss: LossFunction, rng: torch.Generator
    ) -> None:
        x = x.detach()
        logits, losses = look(model, x, y, loss)
        seeds = torch.randint(2**62, (len(x),), generator=rng, device=rng.device).tolist()
        self._streams = [torch.Generator().manual_seed(seed) for seed in seeds]
        self.result = x.clone()
        self.index = (logits.argmax(1) == y).nonzero()[:, 0]
        self.x, self.y, self._loss = x[self.index], y[self.index], losses[self.index]

    @property
    def done(self) -> bool:
        """Whether no image stands any more."""
        return len(self.index) == 0

    def sample(self, threat: ThreatModel) -> Tensor:
        """A random start for each standing image, (b, ...)."""
        starts = [
            threat.sample(x[None], stream)
            for x, stream in zip(self.x, self._standing_streams(), strict=True)
        ]
        return torch.cat(starts) if starts else self.x

    def uniform(self, count: int) -> Tensor:
        """The next `count` uniform numbers of each standing image, (b, count)."""
        numbers = self.x.new_empty(len(self.index), count, device="cpu", dtype=torch.float32)
        for row, stream in zip(numbers, self._standing_streams(), strict=True):
            torch.rand(count, generator=stream, out=row)
        return numbers.to(self.x.device)

    def settle(self, points: Tensor, logits: Tensor) -> Tensor:
        """Keep the points that fool, drop their images; returns who of the b stands, (b,) bool."""
        stands = logits.argmax(1) == self.y
        if not stands.all():
            self.result[self.index[~stands]] = points[~stands]
            self.index, self.x, self.y, self._loss = rows(
                stands, self.index, self.x, self.y, self._loss
            )
        return stands

    def offer(self, points: Tensor, losses: Tensor) -> None:
        """Keep, for standing images, the points (b, ...) that raise the loss (b,)."""
        better = losses > self._loss
        self.result[self.index[better]] = points[better]
        self._loss = torch.where(better, losses, self._loss)

    def _standing_streams(self) -> list[torch.Generator]:
        return [self._streams[i] for i in self.index.tolist()]


def rows(mask: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:
    """The rows of each tensor where `mask` (b,) is true; no copy when it is true everywhere."""
    return tensors if mask.all() else tuple(tensor[mask] for tensor in tensors)
