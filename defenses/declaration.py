"""What a defense says about itself: how it works, and how an informed adversary attacks it."""

from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple, Protocol, TypeVar

import torch
from torch import nn

from hardening.data import TrainingData
from hardening.evidence import Kind
from hardening.log import Log
from hardening.threat import ThreatModel

F = TypeVar("F", bound=Callable[..., Any])

Status = Literal["SOLID", "AT-BASED", "TRANSFER-ONLY", "BROKEN", "CERTIFIED", "NO DEFENSE"]
"""`NO DEFENSE` is what only prepares another link of the chain, which then gives the status."""


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
    """Mechanism in a few words, kinds of attack that must run, status in the literature, cost.

    `passes` maps the hyper-parameters to backward passes for one training image; infinity where
    only a measurement can tell. `ships` is empty for what survives export to ONNX, else one line:
    why it does not, and what ships instead.
    """

    mechanism: str
    due: tuple[Kind, ...]
    status: Status
    passes: Callable[[Mapping[str, Any]], float]
    ships: str = ""


def declares(
    mechanism: str,
    *,
    due: tuple[Kind, ...],
    status: Status,
    passes: Callable[[Mapping[str, Any]], float],
    ships: str = "",
) -> Callable[[F], F]:
    """Attach a declaration to a defense function."""

    def attach(function: F) -> F:
        declared = Declaration(mechanism, due, status, passes, ships)
        function.declaration = declared  # type: ignore[attr-defined]
        return function

    return attach


def declaration(function: Callable[..., Any]) -> Declaration:
    """What `function` declared; every entry of the registry has one (a contract test)."""
    found: Declaration = function.declaration  # type: ignore[attr-defined]
    return found
