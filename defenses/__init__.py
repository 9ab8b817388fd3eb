"""Defenses by name: each turns a model into a harder one."""

from defenses.adversarial_training import adversarial_training
from defenses.declaration import Defense
from defenses.half_precision import half_precision
from defenses.n_fgsm import n_fgsm
from defenses.quantization import quantization
from defenses.quantization_aware import quantization_aware
from defenses.trades import trades

DEFENSES: dict[str, Defense] = {
    "adversarial_training": adversarial_training,
    "trades": trades,
    "n_fgsm": n_fgsm,
    "quantization": quantization,
    "quantization_aware": quantization_aware,
    "half_precision": half_precision,
}
