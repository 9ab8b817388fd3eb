"""Defenses by name: each turns a model into a harder one."""

from collections.abc import Callable
from typing import Any

from defenses.adversarial_training import adversarial_training
from defenses.compactness import compactness
from defenses.declaration import Defense
from defenses.detector import detector
from defenses.extreme_norm import extreme_norm
from defenses.fast_bat import fast_bat
from defenses.free import free
from defenses.half_precision import half_precision
from defenses.helper import helper
from defenses.mart import mart
from defenses.n_fgsm import n_fgsm
from defenses.quantization import quantization
from defenses.quantization_aware import quantization_aware
from defenses.rs_fgsm import rs_fgsm
from defenses.stochastic_activation_pruning import pruning, stochastic_activation_pruning
from defenses.trades import trades
from defenses.watched import watching

DEFENSES: dict[str, Defense] = {
    "adversarial_training": adversarial_training,
    "trades": trades,
    "n_fgsm": n_fgsm,
    "mart": mart,
    "rs_fgsm": rs_fgsm,
    "free": free,
    "fast_bat": fast_bat,
    "extreme_norm": extreme_norm,
    "helper": helper,
    "compactness": compactness,
    "quantization": quantization,
    "quantization_aware": quantization_aware,
    "half_precision": half_precision,
    "stochastic_activation_pruning": stochastic_activation_pruning,
    "detector": detector,
}

FORMS: dict[str, Callable[..., Any]] = {
    "stochastic_activation_pruning": pruning,
    "detector": watching,
}
"""Models made of other models, by the name that their files have: see `hardening.models.form`."""
