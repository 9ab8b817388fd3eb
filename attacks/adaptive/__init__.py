"""What an informed adversary does to a defended model before attacking it with any attack.

Wrappers map a model to a model, so every attack goes through every one of them, and they nest.
`WRAPPERS` holds those that need nothing but the model and numbers, for use from a configuration;
the others take the defense's own parts.
"""

from collections.abc import Callable
from typing import Any

from attacks.adaptive.bpda import bpda
from attacks.adaptive.expectation import agreement, expectation
from attacks.adaptive.joint import joint
from attacks.adaptive.majority import majority
from attacks.adaptive.rescaled import rescaled
from attacks.adaptive.straight_through import straight_through
from attacks.adaptive.undetected import undetected

WRAPPERS: dict[str, Callable[..., Any]] = {"expectation": expectation, "rescaled": rescaled}

__all__ = [
    "WRAPPERS",
    "agreement",
    "bpda",
    "expectation",
    "joint",
    "majority",
    "rescaled",
    "straight_through",
    "undetected",
]
