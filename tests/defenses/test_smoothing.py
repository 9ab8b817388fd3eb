"""Noise training: what it minimises, what it is scored by, and what it buys."""

import pytest
import torch
from torch.nn import functional as F

from attacks.adaptive.expectation import expectation
from attacks.pgd import pgd
from defenses.smoothing import noisy, noisy_accuracy, smoothing
from defenses.training import Loop
from hardening.certify.smoothing import smoothing as certifier
from hardening.deployment.export import export
from hardening.deployment.session import Session
from hardening.deployment.twin import Twin
from hardening.log import Silent
from hardening.threat import ThreatModel


def test_the_loss_is_that_of_images_with_noise_of_sigma(model, data, generator):
    x, y = data.train.floats()[:50], data.train.labels[:50]
    model.eval()
    seen = []
    model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))

    value = noisy(generator(), sigma=0.25)(model, x, y, None)

    noise = seen[0] - x
    assert noise.std() == pytest.approx(0.25, rel=0.03)
    assert noise.mean().abs() < 0.02
    assert seen[0].min() < 0  # the range does not cut it, as it does not the certificate's
    assert value == F.cross_entropy(model(x + noise), y)


def test_the_noise_is_new_in_every_step_and_the_same_in_every_look(model, data, generator):
    x, y = data.train.floats()[:50], data.train.labels[:50]
    model.eval()
    rng = generator()
    loss, score = noisy(rng, sigma=0.25), noisy_accuracy(rng, sigma=0.5)

    assert loss(model, x, y, None) != loss(model, x, y, None)
    assert score(model, data.train) == score(model, data.train)


def test_it_is_more_often_right_under_its_noise(model, data, threat, generator):
    loop = Loop(epochs=6, batch_size=32)
    score = noisy_accuracy(generator(9), sigma=0.5)
    hardened = {
        sigma: smoothing(model, data, threat, generator(), Silent(), sigma=sigma, loop=loop)
        for sigma in (0.01, 0.5)
    }

    assert score(hardened[0.5], data.validation) > score(hardened[0.01], data.validation) + 0.05


@pytest.mark.slow
def test_no_attack_undercuts_the_certificate_at_any_radius(digits, control, generator):
    """Of the file's smoothed classifier, attacked by the mean over its noise, on digits in L2."""
    (data, held_out), sigma = digits, 0.25
    test = held_out.first(100)
    threat = ThreatModel(norm="l2", eps=0.25)
    model = smoothing(
        control, data, threat, generator(1), Silent(), sigma=sigma, loop=Loop(epochs=10)
    )
    file = export(model, (1, 8, 8))
    session, twin = Session(file), Twin(file)
    proof = certifier(file, test, threat, generator(2), Silent(), sigma=sigma)
    assert proof.accuracy.value > 0.5

    def shaken(z):
        return z + sigma * torch.randn(z.shape, generator=noises)

    def smoothed(z, draws=1000):
        votes = torch.stack([session(shaken(z)).argmax(1) for _ in range(draws)])
        return votes.mode(0).values

    noises = generator(3)
    x, y = test.floats(), test.labels
    for radius in (0.1, 0.25, 0.5, 0.75):
        ball = ThreatModel(norm="l2", eps=radius)
        averaged = expectation(lambda z: twin(shaken(z)), draws=20)
        x_adv = pgd(averaged, x, y, ball, generator(4), steps=20).x_adv
        attacked = float((smoothed(x_adv) == y).float().mean())
        certified = sum(found > radius for found in proof.radii) / len(test)
        assert attacked >= certified
