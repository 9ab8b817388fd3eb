"""What a defense says about itself: how it works, and how an informed adversary attacks it."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol, TypeVar

import torch
from torch import nn

from hardening.data import TrainingData
from hardening.evidence import Kind, Status
from hardening.log import Log
from hardening.threat import ThreatModel

F = TypeVar("F", bound=Callable[..., Any])


class Defense(Protocol):
    """Anything that turns a model into a harder one; the given model is left as it was."""

    def __call__(
        self,
        model: nn.Module,
        data: TrainingData,
        threat: ThreatModel,
        rng: torch.Generator,
        log: Log,
        /,
    ) -> nn.Module:
        """Return a new, hardened model."""


class Declaration(NamedTuple):
    """What a defense is, the kinds of attack that must run, its status in the literature, its cost.

    `passes` maps the hyper-parameters to backward passes for one training image; infinity where
    only a measurement can tell. `ships` is empty for what survives export to ONNX, else one line:
    why it does not, and what ships instead. `claim` is what its authors say of it, in few words.
    """

    mechanism: str
    due: tuple[Kind, ...]
    status: Status
    passes: Callable[[Mapping[str, Any]], float]
    ships: str
    claim: str


def declares(
    mechanism: str,
    *,
    due: tuple[Kind, ...],
    status: Status,
    passes: Callable[[Mapping[str, Any]], float],
    claim: str,
    ships: str = "",
) -> Callable[[F], F]:
    """Attach a declaration to a defense function."""

    def attach(function: F) -> F:
        declared = Declaration(mechanism, due, status, passes, ships, claim)
        function.declaration = declared  # type: ignore[attr-defined]
        return function

    return attach


def declaration(function: Callable[..., Any]) -> Declaration:
    """What `function` declared; every entry of the registry has one (a contract test)."""
    found: Declaration = function.declaration  # type: ignore[attr-defined]
    return found
