"""A quantized file looks robust to whoever differentiates its rounding, and is reported as it is.

A small CNN on scikit-learn's digits, quantized by ONNX Runtime and run by it.
"""

from pathlib import Path

import pytest
import torch

from attacks import ATTACKS
from attacks.profiles import PROFILES
from defenses.quantization import quantization
from defenses.standard import standard
from defenses.training import Loop
from hardening.attack import facts
from hardening.carried import Beside, Carried
from hardening.data import TrainingData
from hardening.data.digits import digits
from hardening.deployed import Deployed
from hardening.deployment.export import export
from hardening.deployment.operators.straight_through import true_gradients
from hardening.deployment.session import Session
from hardening.deployment.twin import Twin
from hardening.evaluation import run_attack
from hardening.log import Silent
from hardening.models.architecture import Architecture, build
from hardening.spec import Spec, bind
from hardening.threat import ThreatModel

THREAT = ThreatModel(norm="linf", eps=0.1)
PARTS = slice(0, 1100), slice(1100, 1250), slice(1250, 1400)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def images():
    """Digits in a fixed random order: training data, and the images that are attacked."""
    found = digits(Path()).train
    order = torch.randperm(len(found), generator=generator())
    train, validation, test = (found.take(order[part]) for part in PARTS)
    return TrainingData(train, validation, tuple("0123456789")), test


@pytest.fixture(scope="module")
def files(images):
    """The float file and the int8 file made of it."""
    shape = Architecture(
        name="small_cnn",
        params={"width": 8},
        shape=(1, 8, 8),
        classes=10,
        mean=(0.5,),
        std=(0.25,),
    )
    loop = Loop(epochs=8, batch_size=64)
    model = standard(build(shape, seed=0), images[0], generator(), Silent(), loop=loop)
    int8 = quantization(model, images[0], THREAT, generator(), Silent())
    return export(model, (1, 8, 8)), int8.data


def evaluated(data, parent, test, *, due):
    """Robust accuracy under the quick profile's attacks, those from a parent only if `due`."""
    session = Session(data)
    target, standing = Deployed(session, Twin(data)), torch.arange(len(test))
    for spec in PROFILES["quick"].attacks:
        if spec.source not in ({"file", "parent"} if due else {"file"}):
            continue
        attack, model = bind(ATTACKS, spec), target
        if spec.source == "parent":
            model = (Beside if facts(attack).differential else Carried)(target, Twin(parent))
        name = f"{spec.name} {spec.params}"
        outcome = run_attack(name, attack, model, session, test, standing, THREAT, 0, Silent())
        standing = outcome.attacked[~outcome.fooled]
    return len(standing) / len(test)


def test_int8_that_hides_its_gradients_is_reported_as_its_float_parent_is(files, images):
    parent, int8 = files
    test = images[1]
    assert Session(int8).facts().precision == "int8"

    reported = evaluated(int8, parent, test, due=True)
    exact = evaluated(parent, None, test, due=False)

    with true_gradients():
        session, twin = Session(int8), Twin(int8)
        pgd = bind(ATTACKS, Spec(name="pgd", params={"steps": 40}))
        everything = torch.arange(len(test))
        model = Deployed(session, twin)
        outcome = run_attack("naive", pgd, model, session, test, everything, THREAT, 0, Silent())
    naive = 1 - float(outcome.fooled.float().mean())

    assert naive > 0.9
    assert exact < 0.6
    assert abs(reported - exact) <= 0.05
