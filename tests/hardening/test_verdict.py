"""The verdict is a pure function of the evidence, and doubt never passes."""

import hashlib
from math import inf, nan
from typing import get_args

import pytest

from hardening.evidence import (
    Alarm,
    AttackRow,
    DataFacts,
    Evidence,
    File,
    Kind,
    Latency,
    Parity,
    RunEvidence,
)
from hardening.statistics import accuracy
from hardening.threat import ThreatModel
from hardening.verdict import MINIMUM, SHIPS, Gate, is_serious, judge, missing_attacks

IMAGES = 200


def digest(text):
    return hashlib.sha256(text.encode()).hexdigest()


def outcomes(hits, *, start=0):
    """`hits` images stay correct, the first one of them at `start`."""
    return [start <= index < start + hits for index in range(IMAGES)]


def attack(kind="white-box", hits=100, *, clean=190, budget=(100, 100)):
    """A row that left `hits` of `clean` images standing, by an attack that could spend `budget`."""
    forwards, backwards = budget
    fell = [*range(hits, clean)]
    return AttackRow(
        name=kind,
        attack="apgd",
        params={},
        source="file",
        kind=kind,
        accuracy=accuracy(outcomes(hits)),
        attacked=clean,
        sampled=False,
        fell=fell,
        step=[1] * len(fell),
        distance=[0.1] * len(fell),
        unconfirmed=0,
        lost_in_8_bits=0,
        forwards=20,
        backwards=20,
        budget_forwards=forwards,
        budget_backwards=backwards,
        seconds=1,
        adversarial=[digest(kind)],
    )


def alarm(*, fired=False, value=0.0):
    return Alarm(
        gate="G5",
        name="zero gradients",
        fired=fired,
        value=value,
        limit=0.01,
        images=64,
        meaning="blind",
        advice="look",
    )


def model(name, role="candidate", *, clean=190, robust=100, start=0, **changes):
    parity = Parity(images=8, max_difference=0, scale=1, agreement=1, near_ties=0)
    fields = {
        "name": name,
        "role": role,
        "defenses": [],
        "due": ["white-box"],
        "file": File(
            sha256=digest(name),
            bytes=1000,
            precision="float32",
            opset=20,
            operators={},
            providers=[],
            threads=1,
            optimization="basic",
        ),
        "export_parity": None,
        "twin_parity": parity,
        "clean": accuracy(outcomes(clean)),
        "correct": outcomes(clean),
        "attacks": [attack(hits=robust, clean=clean)],
        "robust": accuracy(outcomes(robust, start=start)),
        "survived": outcomes(robust, start=start),
        "curve": [],
        "alarms": [alarm()],
        "latency": [Latency(batch=1, p50_ms=2.0, p95_ms=3.0)],
        "training_seconds": 0,
        "examples": [],
    }
    return Evidence(**{**fields, **changes})


def control(**changes):
    return model("control", "control", **{"robust": 4, **changes})


def run(*models):
    return RunEvidence(
        name="run",
        seed=0,
        config={},
        threat=ThreatModel(eps=0.1),
        data=DataFacts(
            name="data",
            sha256=digest("data"),
            training_sha256=digest("training"),
            test_sha256=digest("test"),
            shape=[1, 8, 8],
            classes=["0", "1"],
            counts={},
            checks={},
        ),
        images=IMAGES,
        image_indices_sha256=digest("indices"),
        environment={},
        models={each.name: each for each in models},
    )


def passes(candidate, unhardened=None, **limits):
    return judge(run(unhardened or control(), candidate), Gate(**limits)).passed


def test_a_value_at_its_limit_passes_and_one_image_beyond_fails():
    assert passes(model("a", clean=180), clean_accuracy=0.9)
    assert not passes(model("a", clean=179), clean_accuracy=0.9)
    assert passes(model("a", robust=100), robust_accuracy=0.5)
    assert not passes(model("a", robust=99), robust_accuracy=0.5)
    assert passes(model("a", clean=180), max_clean_drop=0.05)
    assert not passes(model("a", clean=179), max_clean_drop=0.05)
    assert passes(model("a", robust=44), min_robust_gain=0.2)
    assert not passes(model("a", robust=43), min_robust_gain=0.2)
    assert passes(model("a"), max_latency_ms=2.0)
    assert not passes(model("a"), max_latency_ms=1.999)


@pytest.mark.parametrize("limit", [value / 200 for value in range(0, 201, 7)])
def test_decimal_rounding_at_the_limit_never_decides(limit):
    assert passes(model("a", clean=round(limit * 200)), clean_accuracy=limit)


@pytest.mark.parametrize("p50_ms", [nan, inf, -inf])
def test_a_latency_that_is_not_finite_never_passes(p50_ms):
    latency = [Latency(batch=1, p50_ms=p50_ms, p95_ms=3)]

    assert not passes(model("a", latency=latency), max_latency_ms=1e9)


def test_a_latency_that_was_not_measured_at_batch_one_never_passes():
    assert not passes(model("a", latency=[]), max_latency_ms=1e9)
    batch_32 = [Latency(batch=32, p50_ms=1, p95_ms=1)]
    assert not passes(model("a", latency=batch_32), max_latency_ms=1e9)


def test_a_robust_accuracy_that_is_no_number_never_passes():
    broken = accuracy(outcomes(100)).model_copy(update={"value": nan})

    assert not passes(
        model("a", robust=100).model_copy(update={"robust": broken}), robust_accuracy=0
    )


def test_limits_that_are_not_given_are_not_checked():
    verdict = judge(run(control(), model("a", clean=1, robust=0, latency=[])), Gate())

    assert verdict.passed
    assert [c.name for c in verdict.judgements[0].checks] == ["due attacks missing", "alarms"]


def test_one_fired_alarm_fails_unless_the_gate_allows_it():
    fired = [alarm(fired=True, value=0.5)]
    masked = model("masked", robust=190, alarms=fired)

    verdict = judge(run(control(), masked), Gate())

    assert not verdict.passed
    assert [c.text for c in verdict.judgements[0].checks if not c.passed] == ["zero gradients"]
    assert passes(masked, max_alarms=1)


def test_a_missing_due_attack_is_never_a_pass_whatever_the_numbers():
    half = model("half", robust=200, due=["white-box", "gradient-free", "transfer"])

    verdict = judge(run(control(), half), Gate(robust_accuracy=0.1))

    assert not verdict.passed
    assert verdict.judgements[0].status == "NOT EVALUATED"
    assert missing_attacks(half) == ["gradient-free", "transfer"]


def test_a_straight_through_attack_is_the_white_box_attack_of_a_quantized_file():
    int8 = model("int8", due=["white-box"], attacks=[attack("straight-through")])

    assert missing_attacks(int8) == []
    assert missing_attacks(model("a", due=["straight-through"])) == ["straight-through"]


def test_an_attack_past_a_rounding_is_the_white_box_attack_of_what_rounds():
    past = [attack("bpda")]
    assert missing_attacks(model("jpeg", due=["white-box", "bpda"], attacks=past)) == []
    assert missing_attacks(model("jpeg", due=["bpda"])) == ["bpda"]
    assert missing_attacks(model("int8", due=["straight-through"], attacks=past)) == [
        "straight-through"
    ]


def test_straight_through_a_quantized_file_a_rounding_in_front_of_it_is_passed_too():
    through = [attack("straight-through")]
    due = ["white-box", "bpda", "straight-through"]
    assert missing_attacks(model("jpeg-int8", due=due, attacks=through)) == []


@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_what_must_transfer_to_a_quantized_file_is_led_by_its_parent(precision):
    def quantized(source, budget=(100, 100)):
        row = attack("transfer", budget=budget).model_copy(update={"source": source})
        made = model("small", due=["transfer"], attacks=[row])
        file = made.file.model_copy(update={"precision": precision})
        return missing_attacks(made.model_copy(update={"file": file}))

    assert quantized("parent") == []
    assert quantized("parent", budget=(9, 9)) == ["transfer"]
    for other in ("control", "robust", "ensemble", "somebody"):
        assert quantized(other) == ["transfer"]
    borrowed = attack("transfer").model_copy(update={"source": "control"})
    assert missing_attacks(model("a", due=["transfer"], attacks=[borrowed])) == []


def test_an_attack_by_expectation_is_the_white_box_attack_of_a_random_model():
    by_expectation = [attack("expectation")]
    random = model("random", due=["white-box", "expectation"], attacks=by_expectation)
    plain = model("plain", due=["white-box"], attacks=by_expectation)

    assert missing_attacks(random) == []
    assert missing_attacks(plain) == ["white-box"]
    assert missing_attacks(model("a", due=["expectation"])) == ["expectation"]


def test_what_is_borrowed_stands_for_no_attack_by_the_models_own_gradients():
    borrowed = model("a", attacks=[attack("transfer"), attack("gradient-free")])

    assert missing_attacks(borrowed) == ["white-box"]


@pytest.mark.parametrize("kind", get_args(Kind))
def test_a_token_attack_does_not_meet_what_is_due(kind):
    forwards, backwards = MINIMUM[kind]
    enough = attack(kind, budget=(forwards, backwards))
    tokens = [attack(kind, budget=(forwards - 1, backwards + 1000))]
    if backwards:
        tokens.append(attack(kind, budget=(forwards + 1000, backwards - 1)))

    assert is_serious(enough)
    assert missing_attacks(model("a", due=[kind], attacks=[enough])) == []
    assert not any(map(is_serious, tokens))
    for token in tokens:
        judged = judge(run(control(), model("a", due=[kind], attacks=[token])), Gate())
        assert (judged.passed, judged.judgements[0].status) == (False, "NOT EVALUATED")


@pytest.mark.parametrize("changes", [{"attack": "noise"}, {"sampled": True, "attacked": 49}])
def test_a_blind_attack_or_a_small_sample_meets_no_due_kind(changes):
    row = attack("gradient-free", budget=(10_000, 0))

    assert is_serious(row)
    assert not is_serious(row.model_copy(update=changes))


@pytest.mark.parametrize("kind", [kind for kind in get_args(Kind) if kind != "gradient-free"])
def test_gradients_on_a_sample_meet_no_due_kind_and_queries_on_fifty_images_do(kind):
    sampled = {"sampled": True, "attacked": 50}

    assert not is_serious(attack(kind, budget=(1000, 1000)).model_copy(update=sampled))
    assert is_serious(attack("gradient-free", budget=(1000, 0)).model_copy(update=sampled))


def test_effort_is_what_an_attack_was_ready_to_spend_not_what_it_spent():
    early = attack(budget=(100, 100)).model_copy(update={"forwards": 1.3, "backwards": 0.3})

    assert is_serious(early)


@pytest.mark.parametrize(("starts", "serious"), [(1, True), (5, True), (20, False)])
def test_many_short_searches_do_not_make_a_long_one(starts, serious):
    row = attack(budget=(100, 100)).model_copy(update={"starts": starts})

    assert is_serious(row) == serious


def test_two_token_attacks_do_not_make_a_serious_one():
    tokens = [attack(budget=(15, 15)), attack("expectation", hits=99, clean=100, budget=(15, 15))]

    assert missing_attacks(model("a", attacks=tokens)) == ["white-box"]


@pytest.mark.parametrize(("kind", "least"), [("white-box", 10), ("gradient-free", 100)])
def test_the_least_effort_is_no_formality(kind, least):
    assert MINIMUM[kind][0] >= least


def test_an_alarm_that_does_not_apply_does_not_fail():
    assert passes(model("a", alarms=[alarm(value=None)]))


def test_a_gain_inside_the_noise_is_no_gain():
    # 3 images gained and none lost: p 0.25; the difference alone would meet the limit.
    assert not passes(model("a", robust=7), control(robust=4), min_robust_gain=0.01)
    # 20 gained and none lost.
    assert passes(model("a", robust=24), control(robust=4), min_robust_gain=0.01)
    # As large a difference, on disjoint images: 100 gained, 80 lost.
    disjoint = model("a", robust=100, start=100)
    assert not passes(disjoint, control(robust=80), min_robust_gain=0.01)


def test_a_gain_of_nothing_may_be_asked_for():
    assert passes(model("a", robust=4), control(robust=4), min_robust_gain=0)
    assert not passes(model("a", robust=3), control(robust=4), min_robust_gain=0)


def test_the_most_robust_of_those_that_pass_is_chosen_then_the_more_accurate_then_the_smaller():
    slow = [Latency(batch=1, p50_ms=9, p95_ms=9)]
    best_but_slow = model("slow", robust=150, latency=slow)
    first = judge(
        run(control(), best_but_slow, model("a"), model("b", robust=101)), Gate(max_latency_ms=5)
    )
    second = judge(run(control(), model("a"), model("b", clean=191)), Gate())
    small = model("b").file.model_copy(update={"bytes": 999})
    third = judge(run(control(), model("a"), model("b", file=small)), Gate())

    assert [first.chosen, second.chosen, third.chosen] == ["b", "b", "b"]


def test_without_a_champion_what_passes_is_promoted():
    verdict = judge(run(control(), model("a")), Gate())

    assert (verdict.chosen, verdict.promote, verdict.against_champion) == ("a", True, None)


def test_a_champion_falls_only_to_a_difference_beyond_the_noise():
    champion = model("champion", "champion", robust=90)
    near = judge(run(control(), model("a", robust=93), champion), Gate())
    far = judge(run(control(), model("a", robust=110), champion), Gate())
    worse = judge(run(control(), model("a", robust=50), champion), Gate())

    assert [near.promote, far.promote, worse.promote] == [False, True, False]
    assert near.passed
    assert near.against_champion.difference == pytest.approx(3 / IMAGES)


@pytest.mark.parametrize("robust", [1, 150])
def test_nothing_is_promoted_over_a_champion_that_was_not_evaluated(robust):
    """What stands of it says nothing: it is neither beaten nor better."""
    note = "no twin of it: operator Foo"
    champion = model("champion", "champion", robust=robust, attacks=[], notes=[note])
    verdict = judge(run(control(), model("a", robust=110), champion), Gate())

    assert (verdict.passed, verdict.chosen, verdict.promote) == (True, "a", False)
    assert verdict.against_champion is None
    assert verdict.reason == (
        "the champion's robust accuracy is NOT EVALUATED, "
        f"due attacks are missing: white-box; {note}"
    )


def test_a_champion_is_not_promoted_over_itself():
    candidate = model("a")
    champion = model("champion", "champion", robust=1, file=candidate.file)

    verdict = judge(run(control(), candidate, champion), Gate())

    assert not verdict.promote
    assert verdict.passed
    assert "already" in verdict.reason


def test_nothing_that_fails_the_gate_is_promoted():
    verdict = judge(run(control(), model("a")), Gate(robust_accuracy=0.99))

    assert (verdict.passed, verdict.chosen, verdict.promote) == (False, None, False)


def test_what_does_not_ship_never_passes_however_robust_it_is():
    hidden = model("hidden", robust=190, ships="it is random, the model without it ships")
    verdict = judge(run(control(), hidden, model("tuned", robust=90)), Gate())

    (check,) = [c for c in verdict.judgements[0].checks if not c.passed]
    assert (check.name, check.text) == (SHIPS, hidden.ships)
    assert verdict.chosen == "tuned"
    assert not judge(run(control(), hidden), Gate()).promote


@pytest.mark.parametrize("kind", ["joint", "expectation"])
def test_the_attack_that_fits_a_defense_is_its_white_box_attack_only_where_it_is_due(kind):
    rows = [attack(kind)]
    assert missing_attacks(model("m", attacks=rows, due=["white-box", kind])) == []
    assert missing_attacks(model("m", attacks=rows, due=["white-box"])) == ["white-box"]


def test_an_existing_model_alone_is_judged_itself():
    passed = judge(run(control(robust=100)), Gate(robust_accuracy=0.5))
    failed = judge(run(control(robust=99)), Gate(robust_accuracy=0.5))

    assert (passed.chosen, passed.passed) == ("control", True)
    assert [judgement.name for judgement in failed.judgements] == ["control"]
    assert not failed.passed


def test_with_candidates_the_control_is_not_judged():
    verdict = judge(run(control(), model("a")), Gate())

    assert [judgement.name for judgement in verdict.judgements] == ["a"]


def test_evidence_without_a_control_is_refused():
    with pytest.raises(ValueError, match="without `control`"):
        judge(run(model("a")), Gate())


def test_evidence_read_back_from_json_gives_the_identical_verdict():
    champion = model("champion", "champion", robust=90)
    fired = [alarm(fired=True, value=0.5)]
    evidence = run(
        control(), model("a", robust=133), model("b", robust=131, alarms=fired), champion
    )
    gate = Gate(clean_accuracy="9/10", robust_accuracy=0.1, min_robust_gain=0.2, max_latency_ms=5)

    again = RunEvidence.model_validate_json(evidence.model_dump_json())

    assert again == evidence
    assert judge(again, Gate.model_validate_json(gate.model_dump_json())) == judge(evidence, gate)


def test_judging_does_not_depend_on_the_order_of_the_models():
    models = [control(), model("a", robust=120), model("b", robust=110)]

    forward, backward = judge(run(*models), Gate()), judge(run(*reversed(models)), Gate())

    assert forward.chosen == backward.chosen == "a"
    assert {j.name: j for j in forward.judgements} == {j.name: j for j in backward.judgements}
