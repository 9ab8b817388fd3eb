"""Profiles are specs of registered attacks with names a report can show."""

import pytest

from attacks import ATTACKS
from attacks.profiles import PROFILES, label, labels
from hardening.errors import ConfigError
from hardening.spec import Spec, bind


@pytest.mark.parametrize("profile", PROFILES)
def test_every_attack_of_a_profile_binds(profile):
    for spec in PROFILES[profile]:
        bind(ATTACKS, spec)


def test_quick_is_two_losses_and_one_attack_without_gradients():
    assert labels(PROFILES["quick"]) == ["apgd-ce", "apgd-dlr", "square"]


def test_a_label_is_the_name_and_the_loss():
    assert label(Spec(name="pgd", params={"loss": "margin", "steps": 3})) == "pgd-margin"
    assert label(Spec(name="fgsm")) == "fgsm"


def test_labels_that_would_be_equal_carry_their_other_parameters():
    specs = [
        Spec(name="pgd", params={"steps": 10, "restarts": 2}),
        Spec(name="pgd", params={"steps": 20}),
        Spec(name="fgsm"),
    ]
    assert labels(specs) == ["pgd restarts=2 steps=10", "pgd steps=20", "fgsm"]


def test_the_same_attack_twice_is_refused():
    with pytest.raises(ConfigError, match="'square' twice"):
        labels([Spec(name="square"), Spec(name="square")])
