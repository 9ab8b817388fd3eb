import pytest
import torch

from defenses.inner import maximise
from hardening.threat import ThreatModel

THREATS = [ThreatModel(norm="linf", eps=0.1), ThreatModel(norm="l2", eps=0.4)]

each_threat = pytest.mark.parametrize("threat", THREATS, ids=str)


@pytest.fixture
def x():
    return 0.3 + 0.4 * torch.rand(5, 1, 4, 4, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def direction():
    return torch.randn(5, 1, 4, 4, generator=torch.Generator().manual_seed(1))


@each_threat
def test_a_linear_objective_is_raised_to_its_known_maximum(threat, x, direction):
    x_adv = maximise(
        lambda z: (direction * z).sum(), x, x, threat, steps=10, step=0.25 * threat.eps
    )

    expected = x + threat.eps * threat.ascend(direction)
    torch.testing.assert_close(x_adv, expected, atol=1e-6, rtol=0)


@each_threat
def test_the_result_lies_in_the_threat_model_and_carries_no_graph(threat, x, direction):
    x_adv = maximise(lambda z: (direction * z**3).sum(), x, x, threat, steps=7, step=1.0)

    assert threat.contains(x, x_adv).all()
    assert not x_adv.requires_grad


@each_threat
def test_no_gradient_is_carried_from_one_step_to_the_next(threat, x, direction):
    def bent(z):
        return (direction * (z - 0.4) ** 2).sum()

    step = 0.2 * threat.eps
    halfway = maximise(bent, x, x, threat, steps=2, step=step)

    assert torch.equal(
        maximise(bent, x, x, threat, steps=3, step=step),
        maximise(bent, x, halfway, threat, steps=1, step=step),
    )


@each_threat
def test_images_of_a_batch_do_not_disturb_each_other(threat, x, direction):
    def run(chosen):
        weight = direction[chosen]
        return maximise(
            lambda z: (weight * (z - 0.4) ** 2).sum(),
            x[chosen],
            x[chosen],
            threat,
            steps=5,
            step=0.3 * threat.eps,
        )

    assert torch.equal(run(slice(0, 5))[2:3], run(slice(2, 3)))


def test_the_images_given_are_left_alone(x, direction):
    before = x.clone()

    maximise(lambda z: (direction * z).sum(), x, x, THREATS[0], steps=3, step=0.1)

    assert torch.equal(x, before)
    assert not x.requires_grad
