"""What an attack is, and who says that it succeeded. Concrete ones live in `attacks/`.

Shapes: B images (B, C, H, W), K classes.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor

from hardening.threat import Model, Norm, ThreatModel

F = TypeVar("F", bound=Callable[..., Any])

Access = Literal["gradients", "scores", "labels", "nothing"]
"""What an attack asks of the model, per query: the more, the stronger the adversary."""


class Found(NamedTuple):
    """What an attack proposes for B images.

    `x_adv` (B, ...) are the images; `step` (B,) int64 counts the forward passes an image had seen
    when it first fell: 0 for one that was wrong from the start, -1 for one that never fell.
    """

    x_adv: Tensor
    step: Tensor


class Attack(Protocol):
    """Anything that turns clean images (B, C, H, W) with labels (B,) into adversarial ones.

    Returned images are proposals: the caller checks that they lie in the threat model and that
    the model it cares about is really fooled.
    """

    def __call__(
        self, model: Model, x: Tensor, y: Tensor, threat: ThreatModel, rng: torch.Generator, /
    ) -> Found:
        """Propose adversarial images."""


class Facts(NamedTuple):
    """What an attack says about itself.

    `minimal` ones look for the nearest adversarial image and return it when it lies in the threat
    model; `whole` ones learn from many images at once and are given all of them in one call;
    `differential` ones are given a file's parent beside it (`Beside`), and all images too, for
    what they tell is told of all.
    """

    access: Access
    norms: tuple[Norm, ...]
    minimal: bool = False
    whole: bool = False
    differential: bool = False


def describes(
    access: Access,
    *,
    norms: tuple[Norm, ...],
    minimal: bool = False,
    whole: bool = False,
    differential: bool = False,
) -> Callable[[F], F]:
    """Attach facts to an attack function."""

    def attach(function: F) -> F:
        function.facts = Facts(access, norms, minimal, whole, differential)  # type: ignore[attr-defined]
        return function

    return attach


def facts(attack: Callable[..., Any]) -> Facts:
    """What `attack`, bound to its hyper-parameters or not, says about itself."""
    function = attack.func if isinstance(attack, partial) else attack
    said: Facts = function.facts  # type: ignore[attr-defined]
    return said


@runtime_checkable
class Judging(Protocol):
    """A model that does not leave it to the attacked logits whether an image has fallen."""

    def stands(self, points: Tensor, logits: Tensor, y: Tensor) -> Tensor:
        """Whether each point (B, ...) is still classified as `y`, (B,) of bool."""


def stands(model: Model, points: Tensor, logits: Tensor, y: Tensor) -> Tensor:
    """Whether `model`, which gave `logits` (B, K) at `points`, still says `y`, (B,) of bool."""
    if isinstance(model, Judging):
        return model.stands(points, logits, y)
    return logits.argmax(1) == y
