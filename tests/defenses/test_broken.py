"""What the literature says of these defenses is seen here: the careless number and the due one."""

import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F

from attacks.apgd import apgd
from attacks.fgsm import fgsm
from attacks.pgd import pgd
from defenses.distillation import distillation
from defenses.ensemble_adversarial_training import ensemble_adversarial_training, under
from defenses.jpeg import jpeg
from defenses.scores import clean_accuracy
from defenses.standard import standard
from defenses.training import Loop
from hardening.data import Labelled, TrainingData
from hardening.deployment.export import export
from hardening.deployment.session import Session
from hardening.deployment.twin import Twin
from hardening.diagnosis.diagnose import diagnose
from hardening.diagnosis.limits import Limits
from hardening.diagnosis.sample import Probes
from hardening.log import Silent
from hardening.models.architecture import Architecture, build
from hardening.threat import ThreatModel

SHAPE = (1, 16, 16)
THREAT = ThreatModel(norm="linf", eps=0.15)


@pytest.fixture(scope="module")
def digits():
    """Training data, and 150 images that nothing was trained or chosen with."""
    source = load_digits()
    images = torch.from_numpy(source.images / 16).float()[:, None]
    images = F.interpolate(images, scale_factor=2, mode="bilinear").clamp(0, 1)
    everything = Labelled((images * 255).round().byte(), torch.from_numpy(source.target))
    order = torch.randperm(len(everything), generator=torch.Generator().manual_seed(0))
    parts = [everything.take(part) for part in order.split((1000, 200, 597))]
    data = TrainingData(parts[0], parts[1], tuple("0123456789"))
    return data, parts[2].take(torch.arange(150))


@pytest.fixture(scope="module")
def untrained():
    return build(
        Architecture(
            name="small_cnn",
            params={"width": 12},
            shape=SHAPE,
            classes=10,
            mean=(0.3,),
            std=(0.4,),
        ),
        seed=0,
    )


@pytest.fixture(scope="module")
def control(digits, untrained):
    rng = torch.Generator().manual_seed(0)
    return standard(untrained, digits[0], rng, Silent(), loop=Loop(epochs=8))


@pytest.fixture(scope="module")
def left(digits):
    """`left(attack, led_by, of)`: the share of images that `of` still gets right."""
    x, y = digits[1].floats(), digits[1].labels

    def measure(attack, led_by, of=None, **params):
        rng = torch.Generator().manual_seed(0)
        x_adv = attack(led_by, x, y, THREAT, rng, **params).x_adv
        return float(((of or led_by)(x_adv).argmax(1) == y).float().mean())

    return measure


def blind(model, images):
    """The alarm of gradients that are exactly zero."""
    everything = torch.ones(len(images), dtype=torch.bool)
    problem = (model, images, everything, Probes(*[pgd] * 8), THREAT, 0, Limits(), ["G5"])
    (alarm,) = diagnose(*problem, Silent()).alarms
    return alarm


class Louder(nn.Module):
    def forward(self, logits):
        return 1000 * logits


def test_a_student_s_logits_grow_with_the_temperature_and_its_gradients_vanish(
    model, data, generator
):
    threat = ThreatModel(eps=0.2)
    x, y = data.validation.floats(), data.validation.labels

    def survived(temperature, loss):
        student = distillation(
            model,
            data,
            threat,
            generator(),
            Silent(),
            temperature=temperature,
            loop=Loop(epochs=15, batch_size=32, learning_rate=0.02),
        )
        x_adv = pgd(student, x, y, threat, generator(), steps=20, loss=loss).x_adv
        return float((student(x_adv).argmax(1) == y).float().mean())

    assert survived(1, "ce") < 0.3
    assert survived(200, "ce") > 0.8
    assert survived(200, "margin") < 0.3


@pytest.mark.slow
def test_distillation_withstands_cross_entropy_alone_and_an_alarm_says_so(
    digits, untrained, left, generator
):
    data, held_out = digits
    student = distillation(
        untrained,
        data,
        THREAT,
        generator(),
        Silent(),
        temperature=100,
        loop=Loop(epochs=30, batch_size=50),
    )

    assert clean_accuracy(student, held_out) > 0.95
    assert left(fgsm, student) > 0.85
    assert left(pgd, student, steps=40) > 0.85
    assert left(apgd, student, steps=50, loss="dlr") < 0.05
    file = Twin(export(student, SHAPE))
    alarm = blind(file, held_out)
    assert alarm.fired
    assert alarm.value > 0.8


@pytest.mark.slow
def test_logits_a_thousand_times_larger_hide_from_cross_entropy_alone_and_an_alarm_says_so(
    digits, control, left
):
    held_out = digits[1]
    loud = Twin(export(nn.Sequential(control, Louder()).eval(), SHAPE))

    assert left(pgd, loud, steps=40) > left(pgd, control, steps=40) + 0.1
    by_ratio = {model: left(apgd, model, steps=50, loss="dlr") for model in (control, loud)}
    assert by_ratio[loud] == pytest.approx(by_ratio[control], abs=0.02)
    assert not blind(control, held_out).fired
    assert blind(loud, held_out).fired


@pytest.mark.slow
def test_jpeg_withstands_an_attack_without_gradients_and_none_with_them(
    digits, control, left, generator
):
    form = jpeg(control, digits[0], THREAT, generator(), Silent())
    file = export(form, SHAPE)

    assert left(pgd, form, steps=40) > 0.9
    assert left(pgd, Twin(file), Session(file), steps=40) < 0.05


@pytest.mark.slow
def test_led_by_others_training_withstands_what_others_lead_to(
    digits, untrained, control, left, generator
):
    data, held_out = digits
    stranger = standard(
        build(untrained.architecture, seed=9), data, generator(9), Silent(), loop=Loop(epochs=8)
    )

    hardened = ensemble_adversarial_training(
        control, data, THREAT, generator(), Silent(), sources=2, loop=Loop(epochs=15)
    )

    carried = under([stranger], THREAT)
    assert carried(hardened, held_out) > carried(control, held_out) + 0.15
    assert carried(hardened, held_out) > left(pgd, hardened, steps=40) + 0.1
    assert clean_accuracy(hardened, held_out) > 0.93
