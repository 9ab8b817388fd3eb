"""DIVA, a differential evasive attack, https://arxiv.org/abs/2204.00426.

Shapes: B images, b of them still standing, K classes.
"""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from attacks.gradient import differentiate, draws, look
from attacks.parameters import Count
from attacks.pgd import TRAVEL
from attacks.search import Search, rows
from hardening.attack import Found, describes, stands
from hardening.balls import inward
from hardening.threat import Model, ThreatModel


@describes("gradients", norms=("linf", "l2", "l1"), differential=True)
def diva(
    model: Model,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    rng: torch.Generator,
    /,
    *,
    steps: Count = 40,
    restarts: Count = 1,
    weight: Annotated[float, Field(gt=0)] = 1.0,
) -> Found:
    """Points that a quantized file gets wrong and the float32 file it was made from gets right.

    Climbs p_parent(y) - weight * p_file(y), p being probabilities, by steps of constant size from
    random starts. An image falls where the file errs and its parent does not: nobody who compares
    the two, or validates the parent, would notice. `model` must carry its `parent` (`Beside`);
    alone, it is attacked by its own probability. Costs `steps` forward and backward passes and one
    forward pass a restart for the images that still stand, and as many of the parent.

    Args:
        steps: Gradient evaluations per restart.
        restarts: Independent random starts.
        weight: Of the file's probability, against 1 for the parent's; more fools the file more
            often, and the parent with it.

    Raises:
        ModelError: The model has no gradients or does not return logits (B, K).
        NumericsError: A logit or a gradient is not finite.
    """
    pair = _Pair(model, weight)
    step = threat.eps * TRAVEL[threat.norm] / steps
    search = Search(pair, x, y, pair.difference, rng)
    for _ in range(restarts):
        points = search.sample(threat)
        for _ in range(steps):
            if search.done:
                return search.found
            logits, losses, gradient = differentiate(pair, points, pair.difference, search.y)
            standing = search.settle(points, logits)
            points, losses, gradient = rows(standing, points, losses, gradient)
            search.offer(points, losses)
            stride = step * threat.ascend(inward(points, gradient))
            points = threat.project(search.x, points + stride)
        if search.done:
            return search.found
        logits, losses = look(pair, points, pair.difference, search.y)
        search.offer(*rows(search.settle(points, logits), points, losses))
    return search.found


class _Pair:
    """A model and its parent as one: logits (B, 2K), those of the parent behind the model's."""

    def __init__(self, model: Model, weight: float) -> None:
        self.model, self.weight = model, weight
        self.parent: Model | None = getattr(model, "parent", None)
        self.draws = draws(model)

    def __call__(self, x: Tensor) -> Tensor:
        logits = self.model(x)
        return logits if self.parent is None else torch.cat([logits, self.parent(x)], 1)

    def difference(self, logits: Tensor, y: Tensor) -> Tensor:
        """The loss, (B,)."""
        if self.parent is None:
            return -_probability(logits, y)
        own, parents = logits.chunk(2, 1)
        return _probability(parents, y) - self.weight * _probability(own, y)

    def stands(self, points: Tensor, logits: Tensor, y: Tensor) -> Tensor:
        """Whether the model is right at each point, or its parent is wrong too, (B,) of bool."""
        if self.parent is None:
            return stands(self.model, points, logits, y)
        own, parents = logits.chunk(2, 1)
        return stands(self.model, points, own, y) | (parents.argmax(1) != y)


def _probability(logits: Tensor, y: Tensor) -> Tensor:
    return logits.softmax(1).gather(1, y[:, None])[:, 0]
