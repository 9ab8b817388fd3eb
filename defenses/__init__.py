"""Defenses by name: each turns a model into a harder one."""

from collections.abc import Callable
from typing import Any

from defenses.adversarial_training import adversarial_training
from defenses.auto import auto
from defenses.bit_depth import behind_bit_depth, bit_depth
from defenses.compactness import compactness
from defenses.compression import compression
from defenses.declaration import Defense
from defenses.detector import detector
from defenses.distillation import distillation
from defenses.ensemble import answering_together, ensemble
from defenses.ensemble_adversarial_training import ensemble_adversarial_training
from defenses.extreme_norm import extreme_norm
from defenses.fast_bat import fast_bat
from defenses.free import free
from defenses.half_precision import half_precision
from defenses.helper import helper
from defenses.interpolation import interpolation
from defenses.interval_training import interval_training
from defenses.jpeg import behind_jpeg, jpeg
from defenses.mart import mart
from defenses.n_fgsm import n_fgsm
from defenses.quantization import quantization
from defenses.quantization_aware import quantization_aware
from defenses.rs_fgsm import rs_fgsm
from defenses.smooth_activation import smooth_activation, with_smooth_activation
from defenses.smoothing import smoothing
from defenses.stochastic_activation_pruning import pruning, stochastic_activation_pruning
from defenses.trades import trades
from defenses.watched import watching

DEFENSES: dict[str, Defense] = {
    "auto": auto,
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
    "interpolation": interpolation,
    "smoothing": smoothing,
    "interval_training": interval_training,
    "quantization": quantization,
    "quantization_aware": quantization_aware,
    "compression": compression,
    "half_precision": half_precision,
    "jpeg": jpeg,
    "bit_depth": bit_depth,
    "smooth_activation": smooth_activation,
    "ensemble": ensemble,
    "ensemble_adversarial_training": ensemble_adversarial_training,
    "distillation": distillation,
    "stochastic_activation_pruning": stochastic_activation_pruning,
    "detector": detector,
}

FORMS: dict[str, Callable[..., Any]] = {
    "jpeg": behind_jpeg,
    "bit_depth": behind_bit_depth,
    "smooth_activation": with_smooth_activation,
    "ensemble": answering_together,
    "stochastic_activation_pruning": pruning,
    "detector": watching,
}
"""Models made of other models, by the name that their files have: see `hardening.models.form`."""
