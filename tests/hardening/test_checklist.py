"""Every item of the checklist says what was measured, and nothing passes that was not."""

from typing import get_args

import pytest

from hardening.checklist import ITEMS, STATEMENTS, checklist
from hardening.diagnosis import GATES, Limits
from hardening.diagnosis.catalogue import alarm
from hardening.errors import ConfigError
from hardening.evidence import (
    AttackRow,
    Certificate,
    ChecklistItem,
    Evidence,
    File,
    Parity,
    Point,
    Survey,
)
from hardening.statistics import accuracy
from hardening.threat import ThreatModel

N = 100
THREAT = ThreatModel(norm="linf", eps=0.1)


def share(count):
    return accuracy([index < count for index in range(N)])


def row(attack, kind, fell=(), **params):
    return AttackRow(
        name=f"{attack} {kind}",
        attack=attack,
        params=params,
        source="file",
        kind=kind,
        accuracy=share(50),
        attacked=N,
        sampled=False,
        fell=list(fell),
        step=[1] * len(fell),
        distance=[0.1] * len(fell),
        unconfirmed=0,
        lost_in_8_bits=0,
        forwards=1,
        backwards=1,
        budget_forwards=10_000,
        budget_backwards=10_000,
        seconds=1,
        adversarial=[],
    )


def gates(*, fired=(), without=()):
    """Every gate measured and quiet, but for these."""
    values = {gate.number: 1e9 if gate.number in fired else 0.0 for gate in GATES.values()}
    values |= dict.fromkeys(without)
    return [alarm(key, values[gate.number], N, Limits()) for key, gate in GATES.items()]


def certificate(subject="file", certified=range(30)):
    return Certificate(
        method="ibp",
        subject=subject,
        text="",
        norm="linf",
        eps=0.1,
        certified=[index in certified for index in range(N)],
        abstained=[False] * N,
        accuracy=share(len(certified)),
        radius_norm="linf",
        radii=[],
        figures={},
    )


ATTACKS = [
    row("apgd", "white-box", range(50, 90), loss="ce"),
    row("apgd", "white-box", loss="dlr-targeted"),
    row("transfer", "transfer"),
    row("square", "gradient-free"),
    row("hopskipjump", "gradient-free"),
]
FULL = {
    "due": ["white-box", "transfer", "gradient-free"],
    "attacks": ATTACKS,
    "alarms": gates(),
    "curve": [Point(eps=eps, accuracy=share(n)) for eps, n in ((0, 90), (0.1, 50), (1, 0))],
    "surveys": [Survey(survey="spatial", params={}, conditions={}, seconds=1)],
    "certificates": [certificate()],
}


def evidence(**changes):
    empty = {"due": [], "attacks": [], "alarms": [], "curve": []}
    parity = Parity(images=1, max_difference=0, scale=1, agreement=1, near_ties=0)
    file = File(
        sha256="0" * 64,
        bytes=1,
        precision="float32",
        opset=20,
        operators={},
        providers=[],
        threads=1,
        optimization="basic",
    )
    return Evidence(
        name="model",
        role="candidate",
        defenses=[],
        file=file,
        export_parity=None,
        twin_parity=parity,
        clean=share(90),
        correct=[index < 90 for index in range(N)],
        robust=share(50),
        survived=[index < 50 for index in range(N)],
        latency=[],
        training_seconds=0,
        examples=[],
        **empty | changes,
    )


def states(statements=None, **changes):
    found = checklist(evidence(**changes), THREAT, statements or {})
    return {item.item: item.state for item in found}


def full(**changes):
    return states(dict.fromkeys(STATEMENTS, "a word"), **FULL | changes)


def test_a_complete_evaluation_passes_every_item():
    assert set(full().values()) == {"passed"}


def test_a_bare_model_passes_only_what_needs_no_measurement():
    bare = states()
    passed = {item for item, state in bare.items() if state == "passed"}
    assert passed == {"threat model", "clean accuracy", "other domains"}
    assert {item for item, state in bare.items() if state == "to state"} == set(STATEMENTS)
    assert "failed" not in bare.values()


def test_items_are_told_apart_and_in_the_papers_sections():
    found = checklist(evidence(**FULL), THREAT, {})
    sections = get_args(ChecklistItem.model_fields["section"].annotation)
    assert tuple(dict.fromkeys(item.section for item in found)) == sections
    assert len({item.item for item in found}) == len(found) == sum(map(len, ITEMS.values()))
    assert all(item.text for item in found)


def test_the_list_says_that_it_proves_nothing():
    first = checklist(evidence(**FULL), THREAT, {})[0]
    assert "neither necessary nor sufficient" in first.text
    assert "arxiv.org/abs/1902.06705" in first.text
    assert first.state == "to state"


def test_the_users_words_are_kept():
    words = {"threat justification": "Stickers on signs.", "ablations": "  "}
    found = {item.item: item for item in checklist(evidence(), THREAT, words)}
    assert found["threat justification"].state == "passed"
    assert "Stickers on signs." in found["threat justification"].text
    assert found["ablations"].state == "to state"


@pytest.mark.parametrize("item", ["threat justificatoin", "transfer attack"])
def test_words_on_an_item_that_is_measured_or_unknown_are_refused(item):
    with pytest.raises(ConfigError, match=f"statements: unknown item '{item}'"):
        checklist(evidence(), THREAT, {item: "trust me"})


MEASURED = {
    "iterative beats single-step": "G7",
    "success grows with the budget": "G9",
    "unbounded attacks succeed": "G8",
    "gradient-free attack": "G10",
    "transfer attack": "G11",
    "non-differentiable parts": "G5",
    "attacks converged": "G12",
    "random noise": "G15",
    "attacks validated": "G17",
}


@pytest.mark.parametrize(("item", "gate"), MEASURED.items())
def test_an_item_follows_its_gate(item, gate):
    assert full(alarms=gates(fired=[gate]))[item] == "failed"
    assert full(alarms=gates(without=[gate]))[item] == "not run"
    assert full(alarms=[])[item] == "not run"


@pytest.mark.parametrize("gate", ["G13", "G14"])
def test_hyper_parameters_need_both_of_their_gates(gate):
    assert full(alarms=gates(fired=[gate]))["hyper-parameters"] == "failed"
    assert full(alarms=gates(without=[gate]))["hyper-parameters"] == "not run"


def test_one_gate_that_fired_is_enough_even_if_the_other_was_not_measured():
    alarms = gates(fired=["G13"], without=["G14"])
    assert full(alarms=alarms)["hyper-parameters"] == "failed"


@pytest.mark.parametrize("gate", ["G10", "G11", "G15"])
def test_any_rival_that_wins_fails_the_adaptive_attacks(gate):
    others = {"G10", "G11", "G15"} - {gate}
    item = "adaptive attacks beat others"
    assert full(alarms=gates(fired=[gate]))[item] == "failed"
    assert full(alarms=gates(without=others))[item] == "passed"
    assert full(alarms=gates(without=others, fired=[gate]))[item] == "failed"
    assert full(alarms=gates(without={gate, *others}))[item] == "not run"


def test_straight_through_gradients_do_not_need_finite_differences():
    assert full(alarms=gates(without=["G6"]))["non-differentiable parts"] == "passed"


def test_a_due_attack_that_did_not_run():
    assert full(due=["joint"])["adaptive attacks"] == "failed"


def test_a_curve_that_ends_before_everything_falls():
    short = [Point(eps=eps, accuracy=share(n)) for eps, n in ((0, 90), (0.1, 50), (0.2, 2))]
    assert full(curve=short)["success against budget"] == "failed"
    assert full(curve=short[:2])["success against budget"] == "not run"


def test_one_attack_in_many_costumes_is_not_diverse():
    assert full(attacks=ATTACKS[:2])["diverse attacks"] == "failed"


@pytest.mark.parametrize("attacks", [ATTACKS[:1], ATTACKS[1:2], ATTACKS[2:]])
def test_targeted_and_untargeted_must_both_be_there(attacks):
    assert full(attacks=attacks)["targeted and untargeted"] == "failed"


@pytest.mark.parametrize(("fell", "state"), [((), "passed"), ((1,), "passed"), ((1, 2), "failed")])
def test_labels_alone_should_not_be_enough(fell, state):
    attacks = [*ATTACKS[:4], row("hopskipjump", "gradient-free", fell)]
    assert full(attacks=attacks)["hard-label attack"] == state
    assert full(attacks=ATTACKS[:4])["hard-label attack"] == "not run"


def test_a_random_model_must_be_attacked_by_expectation():
    random = gates(fired=["G1"])
    assert full(alarms=random)["randomness"] == "failed"
    expected = [*ATTACKS, row("apgd", "expectation", loss="ce")]
    assert full(alarms=random, attacks=expected)["randomness"] == "passed"


def test_an_attack_that_beats_a_proof_of_the_file():
    assert full(certificates=[certificate(certified=range(60))])["provable bounds"] == "failed"
    smoothed = certificate("smoothed classifier", range(60))
    assert full(certificates=[smoothed])["provable bounds"] == "passed"
    assert full(certificates=[])["provable bounds"] == "not run"


def test_nothing_beyond_small_norms_was_looked_at():
    assert full(surveys=[])["broader threat models"] == "not run"
