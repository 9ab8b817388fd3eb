"""The evaluation believes nobody: not the attack, not the model it attacked."""

import pytest
import torch
from torch import nn

from attacks.registry import ATTACKS
from hardening.attack import Found, describes
from hardening.data import Labelled
from hardening.errors import DataError, ModelError, ModelFailure, NumericsError, ThreatViolation
from hardening.evaluation import (
    GROUP_BYTES,
    all_logits,
    check_logits,
    generator,
    joined,
    run_attack,
)
from hardening.log import Silent
from hardening.threat import ThreatModel

THREAT = ThreatModel(norm="linf", eps=0.1)


def plane(x, at=0.5):
    """Two classes split by the plane mean(x) = `at`: the distance to it is exact."""
    margin = x.flatten(1).mean(1) - at
    return torch.stack([-margin, margin], dim=1)


class Plane(nn.Module):
    """The same plane, as a module that can count its own calls."""

    def __init__(self, counting):
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))
        self.counting = counting

    def forward(self, x):
        if self.counting:
            self.calls += 1
        return plane(x)


def attack_by(change, whole=False):
    @describes("gradients", norms=("linf",), whole=whole)
    def attack(model, x, y, threat, rng, /):
        return Found(change(x, y, threat), torch.full((len(x),), -1))

    return attack


def images(*means):
    """One image of class 1 for each mean."""
    x = torch.tensor(means)[:, None, None, None].expand(-1, 1, 4, 4).contiguous()
    return Labelled(x, torch.ones(len(means), dtype=torch.long))


def run(attack, model=plane, session=plane, data=None, standing=None):
    data = images(0.55, 0.55, 0.8) if data is None else data
    standing = torch.arange(len(data)) if standing is None else torch.tensor(standing)
    return run_attack("test", attack, model, session, data, standing, THREAT, 0, Silent())


def test_an_image_falls_exactly_when_the_border_is_within_eps():
    outcome = run(ATTACKS["pgd"])
    assert outcome.fooled.tolist() == [True, True, False]
    assert outcome.fell.tolist() == [0, 1]


def test_only_the_images_that_stand_are_attacked():
    outcome = run(ATTACKS["pgd"], standing=[1, 2])
    assert outcome.attacked.tolist() == [1, 2]
    assert outcome.fell.tolist() == [1]
    assert len(outcome.x_adv) == 2


def test_an_attack_on_nothing_costs_nothing():
    outcome = run(ATTACKS["pgd"], standing=[])
    assert len(outcome.fell) == 0
    assert (outcome.forwards, outcome.backwards) == (0, 0)


def test_step_and_distance_say_when_and_how_far_an_image_fell():
    outcome = run(ATTACKS["pgd"])
    assert (outcome.step[:2] > 0).all()
    assert outcome.step[2] == -1
    assert (outcome.distance[:2] >= 0.05).all()
    assert (outcome.distance <= 0.1 + 1e-6).all()


@pytest.mark.parametrize(
    "change",
    [
        lambda x, _y, threat: x - 1.01 * threat.eps,
        lambda x, _y, _threat: torch.full_like(x, -0.01),
        lambda x, _y, _threat: torch.full_like(x, float("nan")),
    ],
    ids=["too far", "out of range", "not a number"],
)
def test_an_image_outside_the_threat_model_voids_the_attack(change):
    with pytest.raises(ThreatViolation, match="test: 3 of 3 images"):
        run(attack_by(change))


def test_only_the_session_says_whether_an_image_fell():
    """The attacked model errs at 0.7, the file that ships at 0.5."""
    outcome = run(ATTACKS["pgd"], model=lambda x: plane(x, at=0.7), data=images(0.75, 0.72))
    assert outcome.fooled.tolist() == [False, False]
    assert outcome.unconfirmed == 2


def test_a_success_that_the_attacked_model_did_not_see_counts():
    outcome = run(
        attack_by(lambda x, _y, threat: x - 0.9 * threat.eps), model=lambda x: plane(x, at=0.1)
    )
    assert outcome.fooled.tolist() == [True, True, False]


def test_a_model_that_answers_nan_is_an_error_not_robust():
    def broken(x):
        return plane(x) * torch.where(x.flatten(1).mean(1) < 0.5, float("nan"), 1.0)[:, None]

    with pytest.raises(NumericsError, match="finite"):
        run(ATTACKS["pgd"], model=broken, session=broken)


def test_a_model_that_raises_in_the_middle_is_an_error_not_robust():
    calls = []

    def broken(x):
        calls.append(len(x))
        if len(calls) > 3:
            raise RuntimeError("out of memory")
        return plane(x)

    with pytest.raises(ModelFailure, match="raised RuntimeError on 3 images: out of memory"):
        run(ATTACKS["pgd"], model=broken, data=images(0.9, 0.9, 0.9))


def test_a_model_that_changes_itself_is_an_error_not_robust():
    run(ATTACKS["pgd"], model=Plane(counting=False))
    with pytest.raises(ModelFailure, match="test: the model changed 'calls' of itself"):
        run(ATTACKS["pgd"], model=Plane(counting=True))


def test_images_in_another_range_are_refused():
    data = Labelled(images(0.5).images * 255, torch.ones(1, dtype=torch.long))
    with pytest.raises(DataError, match=r"got images in \[127.5, 127.5\], expected \[0, 1\]"):
        run(ATTACKS["pgd"], data=data)


def test_results_depend_on_the_seed_only():
    outcomes = [run(ATTACKS["pgd"]) for _ in range(2)]
    torch.rand(3)
    assert torch.equal(outcomes[0].x_adv, outcomes[1].x_adv)


def test_what_an_attack_costs_is_counted():
    outcome = run(ATTACKS["fgsm"], data=images(0.9, 0.9))
    assert outcome.backwards == 2
    assert outcome.forwards >= 2


def test_many_images_are_attacked_in_groups_of_bounded_memory():
    sizes = []
    side = 512
    count = 2 + max(64, GROUP_BYTES // (4 * side * side))

    def change(x, _y, _threat):
        sizes.append(len(x))
        return x

    x = torch.full((1, 1, side, side), 0.9).expand(count, -1, -1, -1)
    run(attack_by(change), data=Labelled(x, torch.ones(count, dtype=torch.long)))
    assert sizes == [count - 2, 2]
    sizes.clear()
    run(attack_by(change, whole=True), data=Labelled(x, torch.ones(count, dtype=torch.long)))
    assert sizes == [count]


def test_two_outcomes_of_one_attack_join():
    data = images(0.55, 0.8, 0.55)
    both = joined(
        run(ATTACKS["pgd"], standing=[0], data=data),
        run(ATTACKS["pgd"], standing=[1, 2], data=data),
    )
    assert both.attacked.tolist() == [0, 1, 2]
    assert both.fell.tolist() == [0, 2]
    assert both.forwards > 0


def test_probabilities_are_refused():
    logits = plane(torch.rand(6, 1, 4, 4)).softmax(1)
    with pytest.raises(ModelError, match="expected logits: remove the softmax"):
        check_logits("file", logits, 2)


def test_another_number_of_classes_is_refused():
    with pytest.raises(ModelError, match="got 2 outputs, expected 10"):
        check_logits("file", plane(torch.rand(6, 1, 4, 4)), 10)


def test_logits_come_in_the_order_of_the_images():
    data = images(*torch.linspace(0, 1, 150).tolist())
    torch.testing.assert_close(all_logits(plane, data), plane(data.images))


def test_generators_differ_by_what_they_are_for():
    first, same, other = generator(0, "a", 1), generator(0, "a", 1), generator(0, "a", 2)
    drawn = [torch.rand(4, generator=rng).tolist() for rng in (first, same, other)]
    assert drawn[0] == drawn[1] != drawn[2]
