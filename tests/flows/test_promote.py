"""Versions of a registered model that somebody else made: promoted, refused, rolled back."""

import json
import shutil
import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow  # commands of their own, one after the other

REGISTER = """
import sys
from tasks.mlflow_client import mlflow_client
with mlflow_client() as client:
    client.create_registered_model("m")
    for folder in sys.argv[1:]:
        client.create_model_version("m", folder)
"""

TAGS = """
import json
from tasks.mlflow_client import mlflow_client
with mlflow_client() as client:
    # A search leaves aliases out.
    found = [client.get_model_version("m", number) for number in ("1", "2")]
    print(json.dumps({int(v.version): {"tags": v.tags, "aliases": v.aliases} for v in found}))
"""


@pytest.fixture(scope="module")
def there(own_place):
    """Version 1 is undefended, version 2 hardened."""
    place = own_place
    place.write(**{"registry": None, "candidates__tuned-int8": None})
    shutil.copy(place.root / "run.yaml", place.root / "without.yaml")
    done = place.temper("harden", "without.yaml")
    assert done.code == 0, done.err
    latest = place.root / "runs" / "tiny" / "latest"
    folders = []
    for name in ("control", "tuned"):
        folder = place.root / "arrived" / name
        folder.mkdir(parents=True)
        shutil.copy(latest / f"{name}.onnx", folder / "model.onnx")
        folders.append(folder.as_uri())
    python(place, REGISTER, *folders)
    place.write(
        registry={"name": "m"},
        gate__robust_accuracy=0.01,
        # Of sixty images and a machine with other work, neither margin would say anything.
        gate__champion_clean_margin=1.0,
        gate__champion_latency_ratio=1000,
    )
    return place


def python(place, code, *arguments):
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, env=place.env, cwd=place.root, capture_output=True, check=True)
    return done.stdout.decode()


def test_the_better_version_reigns_and_the_one_before_comes_back_by_rollback(there):
    # The first that passes is champion; nothing was champion before.
    first = there.temper("promote", "run.yaml", "1")
    second = there.temper("promote", "run.yaml", "2")
    promoted = json.loads(python(there, TAGS))["2"]
    worse = there.temper("promote", "run.yaml", "1")
    again = there.temper("promote", "run.yaml", "2")
    back = there.temper("rollback", "m", "--reason", "too slow in production", "--json")
    history = json.loads(there.temper("history", "m", "--json").out)
    versions = json.loads(python(there, TAGS))

    assert first.code == 0, first.err
    assert second.code == 0, second.err
    assert "control beats the champion on the same 60 images" in second.out
    assert worse.code == 1, worse.err
    assert "does not beat the champion" in worse.out
    assert again.code == 0
    # It is new to be compared with itself; everything about both was known.
    assert again.ran <= {"evidence", "verdict", "report", "champion: evidence"}
    assert json.loads(back.out)["version"] == 1
    assert [(e["action"], e["version"], e["replaces"]) for e in history] == [
        ("promote", 1, None),
        ("promote", 2, 1),
        ("roll back", 1, 2),
    ]
    assert [" in run " in entry["who"] for entry in history] == [True, True, False]
    assert history[1]["evidence"] == promoted["tags"]["temper.evidence"]
    assert versions["2"]["tags"]["temper.verdict"] == "passed"
    assert "champion" in versions["1"]["aliases"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["promote", "run.yaml", "9"], "has no version 9 of 'm'"),
        (["rollback", "m", "--to", "7", "--reason", "r"], "version 7 is never champion"),
        (["history", "nobody"], "registered model 'nobody': there is none of this name"),
        (["promote", "without.yaml", "1"], "registry: got nothing"),
    ],
)
def test_what_is_not_there_is_exit_code_2_and_one_line(there, arguments, says):
    done = there.temper(*arguments)

    assert done.code == 2, done.err
    lines = [line for line in done.err.splitlines() if line.startswith("temper: ")]
    assert len(lines) == 1
    assert says in lines[0]
