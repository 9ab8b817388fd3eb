"""`temper inspect` on files that somebody else made: what they carry, what is wrong with them."""

import json

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from flows.__main__ import main
from hardening.deployment.contract import Contract, with_contract

HEAD = '<ir_version: 10, opset_import: ["" : 20]> g (float[batch,1,4,4] images) => '
BODY = """{ scores = Flatten(images) label = ArgMax<axis = 1, keepdims = 0>(scores)
    map = Relu(images) }"""
ONE = "(float[batch,16] scores)"
TWO = "(int64[batch] label, float[batch,16] scores)"
NONE = "(int64[batch] label, float[batch,1,4,4] map)"


def parsed(ends):
    return onnx.parser.parse_model(f"{HEAD} {ends} {BODY}").SerializeToString()


@pytest.fixture
def inspect(tmp_path, monkeypatch, capsys):
    """Runs the command on bytes: exit code, standard output as rows, standard error."""
    monkeypatch.setenv("TEMPER_HOME", str(tmp_path / "home"))
    path = tmp_path / "theirs.onnx"

    def run(data, *arguments):
        path.write_bytes(data)
        code = main(["inspect", str(path), *arguments])
        said = capsys.readouterr()
        rows = dict(line.split("  ", 1) for line in said.out.splitlines() if "  " in line)
        return code, {name: text.strip() for name, text in rows.items()}, said

    return run


def test_a_file_that_carries_no_contract_says_what_it_is_taken_for(inspect):
    code, rows, _ = inspect(parsed(ONE))
    assert code == 0
    assert rows["contract"] == (
        "none; unless a configuration says otherwise: layout NCHW, range 0..1, outputs logits"
    )
    assert rows["output"] == "scores: FLOAT (batch, 16)"
    assert rows["tried on"] == "(1, 4, 4), 1 and 64 at a time"


def test_a_file_that_runs_no_likely_images_says_why_not_the_last_ones(inspect):
    """It says any size and takes one that nobody guesses; that is no reason to refuse it."""
    head, body = HEAD.replace("4,4", "H,W"), "{ f = Flatten(images) y = MatMul(f, w) }"
    model = onnx.parser.parse_model(f"{head} (float[batch,K] y) {body}")
    model.graph.initializer.append(numpy_helper.from_array(np.ones((48, 2), np.float32), "w"))
    code, rows, _ = inspect(model.SerializeToString())
    assert code == 0
    assert rows["tried on"].startswith(
        "no images: none of likely sizes fit what it leaves open; "
        "ONNX Runtime does not run images (1, 1, 224, 224): "
    )


def test_the_contract_that_a_file_carries_is_shown(inspect):
    contract = Contract(range="0..255", mean=[128.0], std=[64.0], output="scores")
    code, rows, _ = inspect(with_contract(parsed(TWO), contract))
    assert code == 0
    for text in ("range 0..255", "mean [128.0]", "std [64.0]", "output scores"):
        assert text in rows["contract"]
    assert rows["outputs"] == "label: INT64 (batch); scores: FLOAT (batch, 16)"
    assert rows["output used"] == "scores: FLOAT (batch, 16)"


def test_a_raw_file_of_several_outputs_says_which_there_are_and_that_none_is_used(inspect):
    code, rows, _ = inspect(parsed(TWO))
    assert code == 0
    assert rows["outputs"] == "label: INT64 (batch); scores: FLOAT (batch, 16)"
    assert rows["output used"] == "none before model.output names one of scores"
    assert "ArgMax 1" in rows["operators"]


def test_json_says_the_same(inspect):
    code, _, said = inspect(parsed(TWO), "--json")
    anatomy = json.loads(said.out)["anatomy"]
    assert code == 0
    assert anatomy["contract"] is None
    assert anatomy["output"] is None
    assert anatomy["candidates"] == ["scores"]
    assert len(anatomy["outputs"]) == 2


def wrong_contract():
    model = onnx.load_model_from_string(parsed(ONE))
    model.metadata_props.add(key="temper.contract", value='{"layout": "\x1b[2J"}')
    return model.SerializeToString()


def subgraph():
    model = onnx.load_model_from_string(parsed(ONE))
    model.graph.node[0].op_type = "Loop"
    return model.SerializeToString()


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (lambda: parsed(NONE), "got outputs ['label', 'map'], expected one that is FLOAT"),
        (wrong_contract, "temper.contract"),
        (subgraph, "operator Loop holds a sub-graph"),
        (lambda: parsed(ONE)[:-7], "not an ONNX file, or a truncated one"),
    ],
    ids=["no output", "contract", "sub-graph", "truncated"],
)
def test_what_cannot_be_used_is_refused_in_one_line(data, says, inspect):
    code, _, said = inspect(data())
    assert code == 2
    assert said.err.startswith("temper: ")
    assert "theirs.onnx: " in said.err
    assert says in said.err
    assert said.err.count("\n") == 1
    assert said.err.strip().isprintable()
    assert not said.out
