import pytest

from hardening.evidence import Declared, Naive
from hardening.report.claims import TITLES, catalogue, rows, status
from hardening.statistics import accuracy

ADAPTIVE = {"params": {}, "attack": "pgd"}


def declared(word="SOLID", claim="nothing gets through"):
    return Declared(defense="x", mechanism="noise", status=word, claim=claim)


def candidate(made, word="SOLID", **changes):
    return made.model("x", **{"declared": [declared(word)], "passes": 60.0, **changes})


def seen(made, *models, control=None):
    return made.run(control or made.control(passes=20.0), *models)


def test_a_row_has_the_claim_beside_the_careless_and_the_due_number(made):
    careless = [Naive(**ADAPTIVE, accuracy=accuracy(made.outcomes(share))) for share in (0.95, 0.9)]
    (row,) = rows(seen(made, candidate(made, naive=careless)))

    assert row.clean == "97.0 %"
    assert row.naive == "90.0 %"  # the lower one
    assert row.adaptive == "61.0 %"  # after the white-box attacks, before square
    assert row.worst == "60.0 %"
    assert row.cost == "3.0 x, 1 min 23 s"
    assert row.claim == "nothing gets through"
    assert "30.0 pt of the naive number are no robustness" in row.seen


def test_what_only_others_find_is_no_adaptive_number_and_is_said(made):
    rows_of_attacks = made.cascade(0.97, apgd_ce=0.9, transfer_from_control=0.3, square=0.3)
    (row,) = rows(seen(made, candidate(made, robust=0.3, attacks=rows_of_attacks)))

    assert row.adaptive == "90.0 %"
    assert row.worst == "30.0 %"
    assert "others than its own gradients find more" in row.seen


@pytest.mark.parametrize("word", ["SOLID", "AT-BASED"])
def test_no_better_than_the_control_is_broken_whatever_was_declared(word, made):
    no_gain = seen(made, candidate(made, word, robust=0.03))
    gain = seen(made, candidate(made, word, robust=0.6))

    assert status(no_gain, no_gain.models["x"]) == "BROKEN"
    assert status(gain, gain.models["x"]) == word


@pytest.mark.parametrize("word", ["BROKEN", "NO DEFENSE", "TRANSFER-ONLY"])
def test_no_result_raises_a_status(word, made):
    run = seen(made, candidate(made, word, robust=0.95))
    assert status(run, run.models["x"]) == word


def test_certified_needs_a_proof(made):
    proven = seen(made, candidate(made, "CERTIFIED", certificates=[made.certificate("file", 0.4)]))
    nothing = seen(made, candidate(made, "CERTIFIED", certificates=[made.certificate("file", 0)]))

    assert status(proven, proven.models["x"]) == "CERTIFIED"
    assert rows(proven)[0].certified.startswith("40.0 % (file)")
    assert status(nothing, nothing.models["x"]) == "SOLID"
    no_gain = seen(made, candidate(made, "CERTIFIED", robust=0.03))
    assert status(no_gain, no_gain.models["x"]) == "BROKEN"
    assert rows(nothing)[0].certified == "–"


def test_a_proof_in_another_norm_is_told_where_there_is_none_at_the_threat(made):
    smoothed = made.certificate(
        "smoothed classifier", 0, radii=[0.2, 0.4, 0.3, *[0.0] * 197], radius_norm="l2"
    )
    run = seen(made, candidate(made, "CERTIFIED", certificates=[smoothed]))
    (row,) = rows(run)

    assert row.certified == "only in l2: 1.5 % (smoothed classifier), median radius 0.3"
    assert row.status == "SOLID"


def test_without_its_due_attacks_a_defense_has_no_worst_case_and_no_status(made):
    run = seen(made, made.not_attacked("x", declared=[declared()]))
    (row,) = rows(run)

    assert row.worst == row.status == "NOT EVALUATED"
    assert "gradient-free, transfer missing" in row.seen
    assert "86.5" not in str(row._replace(adaptive=""))


def test_a_chain_claims_what_its_last_link_does_and_is_as_strong_as_its_weakest(made):
    chain = [declared("AT-BASED", "first"), declared("NO DEFENSE"), declared("SOLID", "last")]
    (row,) = rows(seen(made, made.model("x", declared=chain)))

    assert (row.claim, row.declared) == ("last", "AT-BASED")
    assert row.mechanism == "noise; then noise; then noise"


def test_cost_without_a_plain_training_beside_it_is_in_passes_and_by_the_clock_in_seconds(made):
    brought = seen(made, candidate(made), control=made.control())
    timed = seen(made, candidate(made, passes=None))

    assert rows(brought)[0].cost == "60.0 passes an image, 1 min 23 s"
    assert rows(timed)[0].cost == "1 min 23 s"


def test_the_file_is_a_table_that_names_from_outside_cannot_break(made):
    text = catalogue(seen(made, candidate(made).model_copy(update={"name": "a|b"})))
    table = [line for line in text.splitlines() if line.startswith("|")]

    assert len(table) == 3
    assert all(line.replace(r"\|", "").count("|") == len(TITLES) + 1 for line in table)


def test_a_run_without_defenses_has_no_rows(made):
    assert rows(seen(made, made.model("brought"))) == []
