"""Hardening hardens: on a real data set, against an attack that no defense trains with."""

import pytest
import torch

from defenses import DEFENSES
from defenses.scores import clean_accuracy
from defenses.training import Loop
from hardening.log import Silent
from hardening.threat import ThreatModel

THREAT = ThreatModel(norm="linf", eps=0.15)


def test_plain_training_is_accurate_and_not_robust(digits, control, robust):
    assert clean_accuracy(control, digits[1]) > 0.97
    assert robust(control, digits[1], THREAT) < 0.45


@pytest.mark.parametrize(
    "name",
    [
        "adversarial_training",
        "trades",
        "n_fgsm",
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in ("mart", "rs_fgsm", "fast_bat", "helper", "compactness")
        ),
    ],
)
def test_hardening_buys_much_robustness_for_little_accuracy(name, digits, control, robust):
    data, held_out = digits

    hardened = DEFENSES[name](
        control, data, THREAT, torch.Generator().manual_seed(1), Silent(), loop=Loop(epochs=6)
    )

    assert robust(hardened, held_out, THREAT) > robust(control, held_out, THREAT) + 0.25
    assert clean_accuracy(hardened, held_out) > 0.93
