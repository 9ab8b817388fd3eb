"""What a chain of defenses says about itself before anything is measured."""

from collections.abc import Sequence
from math import isfinite

from defenses import DEFENSES
from defenses.declaration import declaration
from defenses.standard import standard
from flows.config import Config
from flows.subjects import Subject
from hardening.evidence import Declared
from hardening.spec import Spec, resolve


def declared(chain: Sequence[Spec]) -> list[Declared]:
    """The declarations of a chain, in its order."""
    found = [(spec.name, declaration(DEFENSES[spec.name])) for spec in chain]
    return [
        Declared(defense=name, mechanism=said.mechanism, status=said.status, claim=said.claim)
        for name, said in found
    ]


def training_passes(config: Config, subject: Subject) -> float | None:
    """Backward passes for one training image, the control's plain training not among a candidate's.

    None where nobody knows them: of what was trained elsewhere, or by the clock.
    """
    if subject.role == "control":
        if config.model.onnx is not None or config.model.weights is not None:
            return None
        return float(resolve(standard, config.training or {})["loop"].passes(1))
    if subject.role == "champion":
        return None
    total = sum(
        declaration(DEFENSES[spec.name]).passes(resolve(DEFENSES[spec.name], spec.params))
        for spec in subject.defenses
    )
    return total if isfinite(total) else None
