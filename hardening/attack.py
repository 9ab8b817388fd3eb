"""What an attack is. Concrete ones live in `attacks/`."""

from typing import Protocol

import torch
from torch import Tensor

from hardening.threat import Model, ThreatModel


class Attack(Protocol):
    """Anything that turns clean images (B, C, H, W) with labels (B,) into adversarial ones.

    Returned images are proposals: the caller checks that they lie in the threat model and that
    the model it cares about is really fooled.
    """

    def __call__(
        self, model: Model, x: Tensor, y: Tensor, threat: ThreatModel, rng: torch.Generator, /
    ) -> Tensor:
        """Propose adversarial images (B, C, H, W)."""
