"""The attacks and surveys that a configuration can name."""

from attacks.apgd import apgd
from attacks.corruptions import corruptions
from attacks.cw import cw
from attacks.ddn import ddn
from attacks.deepfool import deepfool
from attacks.diva import diva
from attacks.fab import fab
from attacks.fgsm import fgsm
from attacks.fmn import fmn
from attacks.hopskipjump import hopskipjump
from attacks.lbfgs import lbfgs
from attacks.noise import noise
from attacks.patch import patch
from attacks.pgd import pgd
from attacks.spatial import spatial
from attacks.spsa import spsa
from attacks.square import square
from attacks.substitute import substitute
from attacks.survey import Survey
from attacks.transfer import transfer
from attacks.universal import universal
from hardening.attack import Attack

ATTACKS: dict[str, Attack] = {
    "fgsm": fgsm,
    "pgd": pgd,
    "apgd": apgd,
    "transfer": transfer,
    "diva": diva,
    "universal": universal,
    "ddn": ddn,
    "fmn": fmn,
    "fab": fab,
    "cw": cw,
    "deepfool": deepfool,
    "lbfgs": lbfgs,
    "square": square,
    "spsa": spsa,
    "hopskipjump": hopskipjump,
    "substitute": substitute,
    "noise": noise,
}

SURVEYS: dict[str, Survey] = {"corruptions": corruptions, "spatial": spatial, "patch": patch}
