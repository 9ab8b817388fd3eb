"""What fixed-budget attacks share: which images still stand, and the best point found for each.

Shapes: B images in the batch, b of them still standing; points are like the images.
"""

import torch
from torch import Tensor

from attacks.gradient import look
from attacks.losses import LossFunction
from hardening.attack import Found, stands
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
        clean: (b, K) logits of those images as they came.
    """

    def __init__(
        self, model: Model, x: Tensor, y: Tensor, loss: LossFunction, rng: torch.Generator
    ) -> None:
        x = x.detach()
        logits, losses = look(model, x, loss, y)
        self._model = model
        self._streams = streams(len(x), rng)
        self._passes = 0
        self._step = torch.full((len(x),), -1, device=x.device)
        self.result = x.clone()
        right = stands(model, x, logits, y)
        self._step[~right] = 0
        self.index = right.nonzero()[:, 0]
        self.x, self.y, self.clean = x[self.index], y[self.index], logits[self.index]
        self._loss = losses[self.index]

    @property
    def done(self) -> bool:
        """Whether no image stands any more."""
        return len(self.index) == 0

    @property
    def found(self) -> Found:
        """What the attack returns."""
        return Found(self.result, self._step)

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

    def normal(self) -> Tensor:
        """Normal noise for each standing image, (b, ...)."""
        noise = torch.empty_like(self.x, device="cpu", memory_format=torch.contiguous_format)
        for row, stream in zip(noise, self._standing_streams(), strict=True):
            row.normal_(generator=stream)
        return noise.to(self.x.device)

    def settle(self, points: Tensor, logits: Tensor) -> Tensor:
        """Keep the points that fool, drop their images; returns who of the b stands, (b,) bool.

        `logits` (b, K) are the model's at `points` (b, ...), one forward pass since the last call.
        """
        self._passes += 1
        standing = stands(self._model, points, logits, self.y)
        if not standing.all():
            fallen = self.index[~standing]
            self.result[fallen] = points[~standing]
            self._step[fallen] = self._passes
            self.index, self.x, self.y, self.clean, self._loss = rows(
                standing, self.index, self.x, self.y, self.clean, self._loss
            )
        return standing

    def skip(self) -> Tensor:
        """Note a forward pass at points outside the threat model: all stand, (b,) bool."""
        self._passes += 1
        return torch.ones_like(self.index, dtype=torch.bool)

    def offer(self, points: Tensor, losses: Tensor) -> None:
        """Keep, for standing images, the points (b, ...) that raise the loss (b,)."""
        better = losses > self._loss
        self.result[self.index[better]] = points[better]
        self._loss = torch.where(better, losses, self._loss)

    def _standing_streams(self) -> list[torch.Generator]:
        return [self._streams[i] for i in self.index.tolist()]


def streams(count: int, rng: torch.Generator) -> list[torch.Generator]:
    """A generator for each of `count` images: draws of one do not shift those of another."""
    seeds = torch.randint(2**62, (count,), generator=rng, device=rng.device).tolist()
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def rows(mask: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:
    """The rows of each tensor where `mask` (b,) is true; no copy when it is true everywhere."""
    return tensors if mask.all() else tuple(tensor[mask] for tensor in tensors)
