import pytest

from hardening.consistency import contradiction
from hardening.evidence import Fooling, Survey
from hardening.report import carlini, cascade, proofs, surveys
from hardening.report.matrices import alarm_matrix
from hardening.statistics import accuracy


def test_evidence_built_by_hand_follows_from_its_own_images(made):
    assert contradiction(made.full()) == contradiction(made.everything()) == ""


def cells(matrix, head):
    return next(line.cells for line in matrix.rows if line.head == head)


def sample(made, attacked, **changes):
    row = made.attack("square", 0.6, 0.6, attacked=attacked, sampled=True, **changes)
    return made.model("tuned", attacks=[*made.cascade(0.97, apgd_ce=0.6), row])


def test_an_attack_says_what_it_met_broke_and_left(made):
    (cell,) = cells(cascade.cascade_matrix([made.model("tuned")]), "apgd-ce")

    assert cell == ("70 of 194 fell", "", "62.0 % [55.1, 68.4] stand")


@pytest.mark.parametrize(("attacked", "most"), [(100, "3.0 %"), (50, "5.8 %")])
def test_a_sample_of_which_none_fell_bounds_what_would_have(made, attacked, most):
    (cell,) = cells(cascade.cascade_matrix([sample(made, attacked)]), "square")

    assert cell.text == f"0 of {attacked} fell"
    assert cell.status == "sample"
    assert cell.note.startswith(f"at most {most} of what stood would fall (95 %); 60.0 %")


def test_a_row_that_met_all_or_broke_some_has_no_such_bound(made):
    whole = made.attack("square", 0.6, 0.6)
    broke = made.attack("square", 0.6, 0.595, attacked=50, sampled=True)

    assert cascade.bound(whole) == cascade.bound(broke) == ""


def test_attacks_stand_in_the_order_of_a_cascade_whichever_model_met_them(made):
    without = made.model("a", attacks=made.cascade(0.97, apgd_ce=0.7, square=0.6))
    with_it = made.model(
        "b", attacks=made.cascade(0.97, apgd_ce=0.7, transfer_from_control=0.65, square=0.6)
    )
    matrix = cascade.cascade_matrix([without, with_it])

    assert [line.head for line in matrix.rows] == ["apgd-ce", "transfer from control", "square"]
    assert cells(matrix, "transfer from control")[0].status == "did not run"


def test_what_stands_is_not_told_of_a_model_without_its_due_attacks(made):
    model = made.not_attacked()
    (cell,) = cells(cascade.cascade_matrix([model]), "apgd-ce")

    assert cell.note == "NOT EVALUATED"
    assert "NOT EVALUATED" in cascade.costs(model, model.attacks[0])


def test_a_universal_perturbation_is_compared_with_noise(made):
    row = made.attack(
        "apgd-ce", 0.97, 0.6, fooling=Fooling(images=500, universal=0.213, noise=0.031)
    )
    matrix = cascade.fooling_matrix([made.model("a", attacks=[row]), made.model("b")])

    assert [cell[::2] for cell in matrix.rows[0].cells] == [
        ("21.3 %", "random noise: 3.1 %"),
        ("", ""),
    ]
    assert cascade.fooling_matrix([made.model("b")]).rows == []


def test_families_of_corruptions_are_averaged_and_every_condition_is_kept(made):
    run = made.run(made.control(**made.additions(0.9, 0.1)))
    first, second = surveys.overviews(run)

    assert (first.title, len(first.matrix.rows), len(first.every.rows)) == ("corruptions", 17, 75)
    (fog,) = cells(first.matrix, "fog")
    assert fog == ("63.0 %", "", "81 · 72 · 63 · 54 · 45")
    (fog_5,) = cells(first.every, "fog 5")
    assert fog_5.text == "45.0 % [38.3, 51.9]"
    assert (second.title, second.every) == ("spatial", None)
    assert [line.head for line in second.matrix.rows][-1] == "worst of grid"


def survey(name, conditions, **params):
    measured = {
        condition: accuracy([n < hits for n in range(100)])
        for condition, hits in conditions.items()
    }
    return Survey(survey=name, params=params, conditions=measured, seconds=1)


def test_severities_are_in_the_order_of_their_strength(made):
    found = survey("corruptions", {"fog 5": 40, "fog 1": 80, "fog 10": 20})
    overview = surveys.overviews(made.run(made.control(surveys=[found])))[0]

    assert cells(overview.matrix, "fog")[0].note == "80 · 40 · 20"


@pytest.mark.parametrize("conditions", [{"fog 3": 40, "snow 3": 30}, {"worst of 10": 40}])
def test_conditions_that_are_no_severities_are_no_families(made, conditions):
    overview = surveys.overviews(made.run(made.control(surveys=[survey("s", conditions)])))[0]

    assert overview.every is None
    assert [line.head for line in overview.matrix.rows] == ["as they are", *conditions]


def test_the_same_survey_with_other_parameters_is_another_table(made):
    small, large = survey("patch", {"patch 5%": 50}, area=0.05), survey("patch", {"patch 9%": 9})
    run = made.run(made.control(surveys=[small, large]), made.model("tuned", surveys=[small]))
    first, second = surveys.overviews(run)

    assert first.remark == "accuracy on 100 images; area 0.05"
    assert [cell.text for cell in cells(second.matrix, "patch 9%")] == [
        "9.0 % [4.8, 16.2]",
        "not measured",
    ]


def test_a_certificate_of_the_file_and_attacks_on_it_make_a_bracket(made):
    certificates = [made.certificate("file", 0.3), made.certificate("smoothed classifier", 0.7)]
    run = made.run(made.control(), made.model("tuned", certificates=certificates))
    (bracket,) = proofs.brackets(run)

    assert (bracket.name, bracket.status) == ("tuned", "")
    assert bracket.certified.startswith("30.0 %")
    assert bracket.attacked.startswith("60.0 %")
    assert [row[:3] for row in proofs.smoothed(run)] == [
        ("tuned", "smoothing", "70.0 % [63.3, 75.9]")
    ]


def test_an_upper_end_that_is_not_evaluated_is_not_told(made):
    half = made.not_attacked("half", certificates=[made.certificate("file", 0.3)])

    assert proofs.brackets(made.run(made.control(), half))[0].attacked == "NOT EVALUATED"


def test_a_certified_image_that_fell_is_called_a_contradiction(made):
    model = made.model("tuned", certificates=[made.certificate("file", 0.61)])
    (bracket,) = proofs.brackets(made.run(made.control(), model))

    assert bracket.status == "contradiction"
    assert bracket.note.startswith("2 certified images fell")


def test_a_checklist_is_shown_by_section_and_what_is_said_of_all_is_said_once(made):
    found = {part.title: part for part in carlini.sections([*made.everything().models.values()])}
    stated = next(x for x in found["Common pitfalls"].matrix.rows if x.head == "prior work")

    assert [*found] == ["Severe flaws", "Common pitfalls", "Special cases"]
    assert stated.explanation == "Stated: nobody attacked these digits before"
    assert [cell for cell in stated.cells if cell.note] == []
    unbounded = cells(found["Severe flaws"].matrix, "unbounded attacks succeed")
    assert [cell.status for cell in unbounded] == ["not run", "passed", "failed"]
    assert found["Severe flaws"].urgent
    assert "1 failed" in found["Severe flaws"].summary
    assert carlini.sections([made.model("tuned")]) == []


def test_alarms_are_in_the_order_of_the_catalogue(made):
    keys = ("int8", "unsolved", "monotone", "zero_gradients", "losses")
    model = made.model("tuned", alarms=[made.alarm(key, 0.0) for key in keys])
    heads = [line.head.split()[0] for line in alarm_matrix([model]).rows]

    assert heads == ["G5", "G9", "G14", "G17", "int8"]


def test_an_alarm_says_on_how_many_images_why_it_does_not_apply_and_what_to_do(made):
    alarms = [
        made.alarm("zero_gradients", 0.31, images=64, detail="margin at the image: 0.31"),
        made.alarm("transfer", None, detail="no transfer attack ran"),
        made.alarm("noise", 0.0, images=64, detail="0 of 64"),
    ]
    lines = {line.head[:3]: line for line in alarm_matrix([made.model("a", alarms=alarms)]).rows}

    assert lines["G5 "].cells == [("0.31", "fired", "margin at the image: 0.31; on 64 images")]
    assert lines["G11"].cells == [("", "not applicable", "no transfer attack ran")]
    assert lines["G15"].cells == [("0", "quiet", "0 of 64")]
    assert ["What to do" in line.explanation for line in lines.values()] == [True, False, False]
