"""Attacks are functions: `attack(model, x, y, threat, rng, *, hyperparameters) -> x_adv`."""

from attacks.apgd import apgd
from attacks.fgsm import fgsm
from attacks.pgd import pgd
from attacks.square import square
from hardening.attack import Attack

ATTACKS: dict[str, Attack] = {"fgsm": fgsm, "pgd": pgd, "apgd": apgd, "square": square}

__all__ = ["ATTACKS", "apgd", "fgsm", "pgd", "square"]
