"""The evaluation believes nobody: not the attack, not the model it attacked."""

import pytest
import torch

from attacks import ATTACKS
from hardening.data import Labelled
from hardening.errors import ModelError, NumericsError, ThreatViolation
from hardening.evaluation import (
    Counted,
    Deployed,
    all_logits,
    check_logits,
    curve,
    generator,
    run_attack,
    zero_gradients,
)
from hardening.log import Silent
from hardening.threat import ThreatModel

THREAT = ThreatModel(norm="linf", eps=0.1)


def plane(x, at=0.5):
    """Two classes split by the plane mean(x) = `at`: the distance to it is exact."""
    margin = x.flatten(1).mean(1) - at
    return torch.stack([-margin, margin], dim=1)


def bright(x, y, threat):
    return (x + threat.eps).clamp(0, 1)


def attack_by(change):
    def attack(model, x, y, threat, rng, /):
        return change(x, y, threat)

    return attack


def images(*means):
    """One image of class 1 for each mean."""
    x = torch.tensor(means)[:, None, None, None].expand(-1, 1, 4, 4).contiguous()
    return Labelled(x, torch.ones(len(means), dtype=torch.long))


def run(attack, source=plane, session=plane, data=None):
    data = data or images(0.55, 0.55, 0.8, 0.4)
    return run_attack("test", attack, source, session, data, THREAT, 0, Silent())


def test_an_image_falls_exactly_when_the_border_is_within_eps():
    outcome = run(ATTACKS["pgd"])
    assert outcome.survived.tolist() == [False, False, True, False]


def test_an_image_that_is_wrong_already_is_not_attacked_and_does_not_survive():
    outcome = run(attack_by(lambda x, _y, _threat: x))
    assert outcome.survived.tolist() == [True, True, True, False]
    assert outcome.distance[3] == 0


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
    with pytest.raises(ThreatViolation, match="test: 3 of 4 images"):
        run(attack_by(change))


def test_only_the_session_says_whether_an_image_fell():
    """The attacked model errs at 0.7, the file that ships at 0.5."""
    outcome = run(ATTACKS["pgd"], source=lambda x: plane(x, at=0.7), data=images(0.75, 0.72))
    assert outcome.survived.tolist() == [True, True]
    assert outcome.fooled_source.tolist() == [True, True]
    assert outcome.unconfirmed == 2


def test_a_success_that_the_attacked_model_did_not_see_counts():
    outcome = run(
        attack_by(lambda x, _y, threat: x - 0.9 * threat.eps), source=lambda x: plane(x, at=0.1)
    )
    assert outcome.survived.tolist() == [False, False, True, False]


def test_a_model_that_answers_nan_is_an_error_not_robust():
    def broken(x):
        return plane(x) * torch.where(x.flatten(1).mean(1) < 0.5, float("nan"), 1.0)[:, None]

    with pytest.raises(NumericsError, match="NaN"):
        run(ATTACKS["pgd"], source=broken, session=broken)


def test_a_model_that_raises_is_an_error_not_robust():
    def broken(x):
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        run(ATTACKS["pgd"], source=broken)


def test_results_depend_on_the_seed_only():
    outcomes = [run(ATTACKS["pgd"]) for _ in range(2)]
    torch.rand(3)
    assert torch.equal(outcomes[0].x_adv, outcomes[1].x_adv)


def test_what_an_attack_costs_is_counted():
    outcome = run(ATTACKS["fgsm"], data=images(0.9, 0.9))
    assert outcome.backwards == 2
    assert outcome.forwards >= 2


def test_the_session_answers_where_no_gradient_is_asked_for():
    asked = []

    def named(name):
        def model(x):
            asked.append(name)
            return plane(x)

        return model

    deployed = Deployed(named("session"), named("twin"))
    deployed(torch.rand(2, 1, 4, 4))
    deployed(torch.rand(2, 1, 4, 4).requires_grad_())
    assert asked == ["session", "twin"]


def test_a_twin_that_disagrees_with_its_session_is_counted():
    """The twin errs below 0.7, the session below 0.5: the attack stops where the twin falls."""
    deployed = Deployed(plane, lambda x: plane(x, at=0.7))
    outcome = run(ATTACKS["pgd"], source=deployed, data=images(0.75, 0.9))
    assert outcome.survived.tolist() == [True, True]
    assert outcome.unconfirmed == 1


def test_counting_changes_nothing():
    x = torch.rand(5, 1, 4, 4)
    assert torch.equal(Counted(plane)(x), plane(x))


def test_the_curve_carries_successes_upward():
    data = images(0.52, 0.58, 0.68, 0.9, 0.3)
    falls = curve(
        ATTACKS["apgd"], plane, plane, data, THREAT, (0.5, 1.0, 2.0), 0, Silent()
    ).tolist()
    assert falls == [0.5, 1.0, 2.0, float("inf"), 0.0]


def test_probabilities_are_refused():
    logits = plane(torch.rand(6, 1, 4, 4)).softmax(1)
    with pytest.raises(ModelError, match="expected logits: remove the softmax"):
        check_logits("file", logits, 2)


def test_another_number_of_classes_is_refused():
    with pytest.raises(ModelError, match="got 2 outputs, expected 10"):
        check_logits("file", plane(torch.rand(6, 1, 4, 4)), 10)


def test_a_model_without_gradients_is_seen():
    data = images(0.6, 0.7, 0.8, 0.9)
    assert zero_gradients(plane, data) == 0
    assert zero_gradients(lambda x: plane((x * 4).round() / 4), data) == 1


def test_logits_come_in_the_order_of_the_images():
    data = images(*torch.linspace(0, 1, 150).tolist())
    torch.testing.assert_close(all_logits(plane, data), plane(data.images))


def test_generators_differ_by_what_they_are_for():
    first, same, other = generator(0, "a", 1), generator(0, "a", 1), generator(0, "a", 2)
    drawn = [torch.rand(4, generator=rng).tolist() for rng in (first, same, other)]
    assert drawn[0] == drawn[1] != drawn[2]
