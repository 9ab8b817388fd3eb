"""What proves a lower bound of robust accuracy."""

from typing import Protocol

import torch

from hardening.data import Labelled
from hardening.evidence import Certificate
from hardening.log import Log
from hardening.threat import ThreatModel


class Certifier(Protocol):
    """Anything that proves robustness of the bytes of an ONNX file; hyper-parameters are bound."""

    def __call__(
        self, file: bytes, images: Labelled, threat: ThreatModel, rng: torch.Generator, log: Log, /
    ) -> Certificate:
        """Certify `images`."""
