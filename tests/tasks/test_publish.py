"""What leaves a run: its folder, and the model that stands for it when none passes."""

import os
import time
from types import SimpleNamespace

from tasks.folder import STALE
from tasks.publish import most_robust, write_folder


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


def test_what_killed_runs_left_goes_with_the_next_and_what_others_write_now_stays(tmp_path):
    home = tmp_path / "digits"
    for name in (".draft-killed", ".draft-writing"):
        (home / name / "models").mkdir(parents=True)
        (home / name / "models" / "a.onnx").write_bytes(b"half")
    (home / ".latest-killed").symlink_to("gone")
    before = time.time() - STALE - 1
    os.utime(home / ".draft-killed", (before, before))
    os.utime(home / ".latest-killed", (before, before), follow_symlinks=False)

    folder = write_folder.fn({"report.html": b"x"}, "digits", tmp_path)

    left = {path.name for path in home.iterdir()}
    assert left == {".draft-writing", "latest", folder.name}
    assert (home / ".draft-writing" / "models" / "a.onnx").read_bytes() == b"half"
