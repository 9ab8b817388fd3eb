"""`temper inspect` on files with their lineage, as they are and as somebody changed them."""

import hashlib
import json

import onnx
import pytest

from flows.__main__ import main
from flows.config import parse
from hardening.deployment.signature import graph_sha256
from tasks.ship import ship

CONFIG = {
    "name": "tiny",
    "data": {"name": "digits"},
    "model": {"name": "small_cnn", "params": {"width": 4}},
    "threat": {"norm": "linf", "eps": 0.1},
    "training": {"epochs": 1},
    "evaluation": {"images": 20, "curve": [], "attacks": [{"name": "fgsm"}]},
    "candidates": {"tuned-int8": [{"name": "quantization"}]},
}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("home")


@pytest.fixture
def folder(chain, home, tmp_path):
    """The files of a run; its steps are known, and what was opened is remembered, in `home`."""
    made = chain(parse(CONFIG, "tiny.yaml"), home)
    digest = hashlib.sha256(made.evidence).hexdigest()
    for name, data in ship(made.run, digest, made.files, {}).items():
        (tmp_path / f"{name}.onnx").write_bytes(data)
    (tmp_path / "evidence.json").write_bytes(made.evidence)
    return tmp_path


def changed(path, change):
    model = onnx.load(path)
    change(model)
    path.write_bytes(model.SerializeToString())


def inspect(path, *arguments):
    return main(["inspect", str(path), *map(str, arguments)])


def prop(name, value):
    def change(model):
        entry = next(
            entry for entry in model.metadata_props if entry.key == f"temper.lineage.{name}"
        )
        entry.value = value

    return change


def flip(model):
    tensor = model.graph.initializer[0]
    tensor.raw_data = bytes([tensor.raw_data[0] ^ 1]) + tensor.raw_data[1:]


def test_a_shipped_file_agrees_with_itself_and_with_its_evidence(folder, capsys):
    assert inspect(folder / "tuned-int8.onnx", "--evidence", folder / "evidence.json") == 0
    out = capsys.readouterr().out
    for text in ("tiny/tuned-int8", "is the graph that was measured", "model 'tuned-int8'"):
        assert text in out
    for text in ("follow from the evidence", "QuantizeLinear", "8-bit weights, integer inputs"):
        assert text in out
    assert "NO" not in out.split()


def test_json_says_the_same(folder, capsys):
    path = folder / "tuned-int8.onnx"
    assert inspect(path, "--json") == 0
    said = json.loads(capsys.readouterr().out)
    assert said["anatomy"]["graph_sha256"] == graph_sha256(path.read_bytes())
    assert said["lineage"]["graph"] == said["anatomy"]["graph_sha256"]
    assert [f["passed"] for f in said["findings"]] == [True]
    assert {layer["bits"] for layer in said["anatomy"]["layers"]} <= {8, 32}
    assert sum(layer["integer"] for layer in said["anatomy"]["layers"]) >= 2


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (flip, "NO graph: was measured as"),
        (prop("robust_accuracy", "0.9990 [0.9900, 1.0000] n 20"), "NO figures: robust_accuracy is"),
        (prop("evidence", "0" * 64), "NO evidence digest: is"),
    ],
    ids=["a weight", "a figure", "the evidence"],
)
def test_what_was_changed_since_is_told(change, says, folder, capsys):
    path = folder / "control.onnx"
    changed(path, change)
    assert inspect(path, "--evidence", folder / "evidence.json") == 1
    assert says in " ".join(capsys.readouterr().out.split())


def test_an_evidence_of_another_file_is_told(folder, capsys):
    evidence = json.loads((folder / "evidence.json").read_text())
    for model in evidence["models"].values():
        model["file"]["graph_sha256"] = "0" * 64
    (folder / "other.json").write_text(json.dumps(evidence))
    assert inspect(folder / "control.onnx", "--evidence", folder / "other.json") == 1
    assert "NO evidence" in " ".join(capsys.readouterr().out.split())


def test_a_file_without_lineage_says_so(folder, capsys):
    path = folder / "control.onnx"
    changed(path, lambda model: model.ClearField("metadata_props"))
    assert inspect(path) == 0
    assert "no lineage: the file says nothing" in capsys.readouterr().out
    assert inspect(path, "--evidence", folder / "evidence.json") == 0
    assert "model 'control'" in capsys.readouterr().out


@pytest.mark.parametrize("what", ["missing", "folder", "junk"])
def test_what_is_no_such_file_is_refused_in_one_line(what, folder, capsys):
    path = folder / {"missing": "none.onnx", "folder": ".", "junk": "evidence.json"}[what]
    assert inspect(path) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"temper: {path}: ")
    assert err.count("\n") == 1


def test_the_help_teaches(capsys):
    with pytest.raises(SystemExit):
        main(["inspect", "--help"])
    out = capsys.readouterr().out
    assert "--evidence evidence.json" in out
    assert "Someone who can write the file can write its lineage" in out
