"""The digest of a step's code covers what the step can reach, and nothing else."""

import subprocess
import sys
from pathlib import Path

from tasks.code import _reachable, code_digest

ROOT = Path(__file__).parents[2]


def test_a_step_reaches_what_it_uses_through_other_modules():
    reached = _reachable("tasks.attack")
    assert {"hardening.evaluation", "hardening.threat", "attacks.apgd", "tasks.step"} <= reached


def test_training_does_not_depend_on_attacks_report_or_commands():
    reached = _reachable("tasks.models")
    others = {"hardening.report.page", "flows.__main__", "tasks.judge", "attacks.square"}
    assert not others & reached


def test_a_change_anywhere_in_reach_changes_the_digest(tmp_path):
    """On a copy of the sources, in a process of its own: digests are read once per process."""
    for name in ("hardening", "attacks", "defenses", "tasks"):
        subprocess.run(["cp", "-r", ROOT / name, tmp_path], check=True)
    before = _digest(tmp_path)
    threat = tmp_path / "hardening" / "threat.py"
    threat.write_text(threat.read_text() + "\n# a comment\n")
    assert _digest(tmp_path) != before
    alone = tmp_path / "hardening" / "verdict.py"
    changed = _digest(tmp_path)
    alone.write_text(alone.read_text() + "\n# a comment\n")
    assert _digest(tmp_path) == changed


def test_the_digest_is_the_same_in_every_process():
    assert code_digest("tasks.models") == _digest(ROOT)


def _digest(root):
    code = "from tasks.code import code_digest; print(code_digest('tasks.models'))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, check=True, capture_output=True, text=True
    )
    return done.stdout.strip()
