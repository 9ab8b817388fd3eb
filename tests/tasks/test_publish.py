"""Which model stands for a run when none passes."""

from types import SimpleNamespace

from tasks.publish import most_robust


def model(name, role="candidate", ships="", robust=0.5):
    return SimpleNamespace(
        name=name,
        role=role,
        ships=ships,
        robust=SimpleNamespace(value=robust),
        due=[],
        attacks=[],
        file=SimpleNamespace(precision="float32"),
    )


def run(*models):
    return SimpleNamespace(models={each.name: each for each in models})


def test_the_most_robust_candidate_that_ships_stands_for_the_run():
    control, weak, strong = (
        model("control", "control", robust=0.9),
        model("a"),
        model("b", robust=1),
    )
    unshipped = model("c", ships="random", robust=2)

    assert most_robust(run(control, weak, strong, unshipped)) == "b"


def test_the_control_stands_for_a_run_without_candidates_and_for_no_other():
    control, unshipped = model("control", "control"), model("c", ships="random")

    assert most_robust(run(control)) == "control"
    assert most_robust(run(control, unshipped)) is None
