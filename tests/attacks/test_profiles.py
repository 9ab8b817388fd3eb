"""Profiles are specs of registered attacks with names a report can show."""

import pytest

from attacks.adaptive import WRAPPERS
from attacks.cost import cost, starts
from attacks.profiles import PROFILES, AttackSpec, in_order, kind, label, labels
from attacks.registry import ATTACKS
from hardening.attack import facts
from hardening.errors import ConfigError
from hardening.spec import Spec, bind
from hardening.threat import ThreatModel
from hardening.verdict import MINIMUM

NORMS = ("linf", "l2", "l1")


def spent(spec):
    """Passes of an image that withstands everything, in forwards; a backward costs two."""
    passes = cost(spec, ThreatModel(norm="linf", eps=0.1))
    return passes.forwards + 2 * passes.backwards


@pytest.mark.parametrize("profile", PROFILES)
def test_every_attack_of_a_profile_binds(profile):
    for spec in PROFILES[profile].attacks:
        bind(ATTACKS, spec)
        for wrapper in spec.through:
            bind(WRAPPERS, wrapper)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("profile", PROFILES)
def test_every_profile_is_enough_for_what_is_due_against_any_model(profile, norm):
    """Two losses and an attack without gradients, each with the effort its kind needs."""
    specs = [s for s in PROFILES[profile].attacks if norm in facts(ATTACKS[s.name]).norms]
    enough = []
    for spec in specs:
        passes, least = (
            cost(spec, ThreatModel(norm=norm, eps=0.1)),
            MINIMUM[kind(spec, "white-box")],
        )
        if passes.forwards >= least[0] and passes.backwards >= least[1]:
            enough.append(spec)
    assert {"white-box", "transfer", "differential", "gradient-free"} <= {
        kind(s, "white-box") for s in enough
    }
    assert len({s.params.get("loss") for s in enough if s.name == "apgd"}) >= 2


def test_more_effort_costs_more():
    quick, standard, full = (
        sum(spent(spec) for spec in PROFILES[name].attacks if spec.sample is None)
        for name in ("quick", "standard", "full")
    )
    assert quick < standard < full


def test_full_is_the_composition_of_autoattack_and_more():
    specs = {label(spec): spec for spec in PROFILES["full"].attacks}
    assert specs["apgd-ce"].params["steps"] == 100
    assert specs["apgd-dlr-targeted"].params["targets"] == 9
    assert specs["fab"].params["targets"] == 9
    assert specs["square"].params["queries"] == 5000
    assert not any(specs[n].sample for n in ("apgd-ce", "apgd-dlr-targeted", "fab", "square"))


def test_kinds_follow_from_what_an_attack_asks_and_of_whom():
    assert kind(AttackSpec(name="apgd"), "white-box") == "white-box"
    assert kind(AttackSpec(name="apgd"), "straight-through") == "straight-through"
    assert kind(AttackSpec(name="apgd"), "bpda") == "bpda"
    assert kind(AttackSpec(name="square"), "straight-through") == "gradient-free"
    assert kind(AttackSpec(name="apgd", source="control"), "white-box") == "transfer"
    assert kind(AttackSpec(name="diva", source="parent"), "straight-through") == "differential"
    assert kind(AttackSpec(name="apgd", source="parent"), "straight-through") == "transfer"
    drawn = AttackSpec(name="apgd", through=[{"name": "expectation"}])
    assert kind(drawn, "white-box") == "expectation"


def test_gradients_run_before_transfer_and_transfer_before_the_rest():
    given = [
        AttackSpec(name="square"),
        AttackSpec(name="transfer", source="control"),
        AttackSpec(name="pgd"),
        AttackSpec(name="fgsm"),
    ]
    assert labels(in_order(given)) == ["pgd", "fgsm", "transfer from control", "square"]


def test_a_label_says_the_name_the_loss_and_who_leads():
    assert label(AttackSpec(name="pgd", params={"loss": "margin", "steps": 3})) == "pgd-margin"
    assert label(AttackSpec(name="fgsm", source="parent")) == "fgsm from parent"
    through = AttackSpec(name="apgd", through=[{"name": "expectation"}])
    assert label(through) == "apgd through expectation"


def test_labels_that_would_be_equal_carry_their_other_parameters():
    specs = [
        AttackSpec(name="pgd", params={"steps": 10, "restarts": 2}),
        AttackSpec(name="pgd", params={"steps": 20}),
        AttackSpec(name="fgsm"),
    ]
    assert labels(specs) == ["pgd restarts=2 steps=10", "pgd steps=20", "fgsm"]


def test_the_same_attack_twice_is_refused():
    with pytest.raises(ConfigError, match="'square' twice"):
        labels([AttackSpec(name="square"), AttackSpec(name="square")])


@pytest.mark.parametrize(
    ("name", "params", "expected"),
    [
        ("pgd", {"steps": 1, "restarts": 20}, 20),
        ("apgd", {"loss": "ce", "targets": 5}, 1),
        ("apgd", {"loss": "dlr-targeted", "targets": 5, "restarts": 2}, 10),
        ("apgd", {"loss": "dlr-targeted", "targets": 50}, 9),
        ("fab", {"targets": 4}, 4),
        ("square", {}, 1),
    ],
)
def test_searches_are_restarts_times_classes_aimed_at(name, params, expected):
    assert starts(Spec(name=name, params=params)) == expected
