"""What minimum-norm attacks share: the nearest point that fools each image.

Shapes: B images in the batch, b of them right from the start; points are like the images.
"""

import torch
from torch import Tensor

from attacks.gradient import look
from attacks.losses import margin
from attacks.search import streams
from hardening.attack import Found, stands
from hardening.threat import Model, ThreatModel, per_image


class Closest:
    """The book of one attack: of all points that fool, the nearest in the threat model's norm.

    Images that are wrong from the start are left out; no other one leaves before the end, for a
    nearer point may come. The attack returns the nearest point where it lies in the threat model
    and its projection where it does not: with `threat.unbounded(...)` it is always the nearest.

    Attributes:
        index: (b,) places in the batch of the images that were right.
        x: (b, ...) those images.
        y: (b,) their labels.
        clean: (b, K) logits of those images as they came.
        best: (b, ...) the nearest point that fools, the image itself where none is known.
        distance: (b,) how far it is; infinity where none is known.
    """

    def __init__(
        self, model: Model, x: Tensor, y: Tensor, threat: ThreatModel, rng: torch.Generator
    ) -> None:
        x = x.detach()
        logits, _ = look(model, x, margin, y)
        self._model, self._threat = model, threat
        self._given = x
        self._step = torch.full((len(x),), -1, device=x.device)
        right = stands(model, x, logits, y)
        self._step[~right] = 0
        self.index = right.nonzero()[:, 0]
        all_streams = streams(len(x), rng)
        self.streams = [all_streams[i] for i in self.index.tolist()]
        self.x, self.y, self.clean = x[self.index], y[self.index], logits[self.index]
        self.best = self.x.clone()
        self.distance = torch.full((len(self.index),), float("inf"), device=x.device)
        self._passes = torch.zeros_like(self.index)

    @property
    def known(self) -> Tensor:
        """(b,) bool: images for which some point that fools is known."""
        return self.distance.isfinite()

    def offer(self, points: Tensor, logits: Tensor, where: Tensor | None = None) -> Tensor:
        """Note points in [0, 1] that fool and are nearer; returns which of them fool, bool.

        `logits` are the model's at `points`, one forward pass since the last call. Points are
        (b, ...), or those of the images `where` (places in 0..b-1, each at most once). The model
        itself judges those that are nearer; of the others, which only lead the search, the logits
        are believed.
        """
        place = torch.arange(len(self.x), device=self.x.device) if where is None else where
        self._passes[place] += 1
        y = self.y[place]
        fooled = logits.argmax(1) != y
        distance = self._threat.distance(self.x[place], points)
        nearer = distance < self.distance[place]
        if nearer.any():
            fooled[nearer] = ~stands(self._model, points[nearer], logits[nearer], y[nearer])
        nearer &= fooled
        if nearer.any():
            self.best[place[nearer]] = points[nearer]
            self.distance[place[nearer]] = distance[nearer]
            inside = nearer & self._threat.contains(self.x[place], points)
            first = place[inside]
            first = first[self._step[self.index[first]] < 0]
            self._step[self.index[first]] = self._passes[first]
        return fooled

    def stir(self, direction: Tensor) -> Tensor:
        """`direction` (b, ...) with a random one of L2 length one where it is zero."""
        still = (~direction.flatten(1).any(1)).nonzero()[:, 0].tolist()
        if not still:
            return direction
        stirred = direction.clone()
        for i in still:
            noise = torch.randn(direction.shape[1:], generator=self.streams[i])
            stirred[i] = (noise / noise.norm()).to(direction)
        return stirred

    @property
    def found(self) -> Found:
        """What the attack returns: a known point that is not in the threat model is projected.

        Costs one forward pass for such images: what they are projected to may fool as well.
        """
        inside = self._threat.contains(self.x, self.best)
        points = torch.where(
            per_image(inside, self.best), self.best, self._threat.project(self.x, self.best)
        )
        self._settle(points, (~inside).nonzero()[:, 0])
        result = self._given.clone()
        result[self.index] = points
        return Found(result, self._step)

    def _settle(self, points: Tensor, where: Tensor) -> None:
        if not len(where):
            return
        logits, _ = look(self._model, points[where], margin, self.y[where])
        self._passes[where] += 1
        fallen = where[~stands(self._model, points[where], logits, self.y[where])]
        self._step[self.index[fallen]] = self._passes[fallen]
