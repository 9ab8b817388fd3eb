"""Measurements on a sample that tell whether a robust accuracy can be believed."""

from hardening.diagnosis.catalogue import GATES
from hardening.diagnosis.diagnose import DIAGNOSED, diagnose
from hardening.diagnosis.limits import Limits
from hardening.diagnosis.sample import Probes

__all__ = ["DIAGNOSED", "GATES", "Limits", "Probes", "diagnose"]
