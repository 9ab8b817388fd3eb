"""What a file can do to the process that opens it ends in one line, in the process that asked."""

import json
import os
import sys
import time

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from hardening.deployment import sandbox
from hardening.deployment.sandbox import Limits, open_once
from hardening.errors import ModelError

GIB = 1 << 30
GOOD = """<ir_version: 10, opset_import: ["" : 20]>
g (float[batch,1,4,4] x) => (float[batch,16] y) { y = Flatten(x) }"""


def parsed(text):
    return onnx.parser.parse_model(text).SerializeToString()


def swelling():
    """A small file that holds 3 GB at once, in tensors that are each small enough."""
    made = " ".join(f"v{i} = Sin(c) w{i} = Mul(v{i}, k{i})" for i in range(48))
    added = ", ".join(f"w{i}" for i in range(48))
    model = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["" : 20]> g (float[batch,1,4,4] x) => (float[batch,1] y) '
        "<int64[2] s = {4096, 4096}, int64[1] one = {1}> { m = ReduceMean<keepdims = 0>(x) "
        f"c = Expand(m, s) {made} t = Sum({added}) r = ReduceMean<keepdims = 0>(t) "
        "f = Flatten(x) g = ReduceMean<keepdims = 1>(f, one) y = Add(g, r) }"
    )
    factors = [numpy_helper.from_array(np.float32(i), f"k{i}") for i in range(48)]
    model.graph.initializer.extend(factors)
    return model.SerializeToString()


def slow():
    """A hundred products of matrices of 4096 x 4096: hours."""
    products = " ".join(f"p{i + 1} = MatMul(p{i}, p{i})" for i in range(100))
    return parsed(
        '<ir_version: 10, opset_import: ["" : 20]> g (float[batch,1,4,4] x) => (float[batch,1] y) '
        "<int64[2] s = {4096, 4096}, int64[1] one = {1}> { m = ReduceMean<keepdims = 0>(x) "
        f"p0 = Expand(m, s) {products} r = ReduceMean<keepdims = 0>(p100) f = Flatten(x) "
        "g = ReduceMean<keepdims = 1>(f, one) y = Add(g, r) }"
    )


def test_a_good_file_opens(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)

    assert open_once(parsed(GOOD), "file.onnx").shape == (1, 4, 4)

    assert not list(tmp_path.iterdir())
    assert capfd.readouterr() == ("", "")


def test_what_the_gate_refuses_is_refused_with_its_words():
    with pytest.raises(ModelError, match=r"^file\.onnx: got ONNX opset 8, expected"):
        open_once(parsed(GOOD.replace('"" : 20', '"" : 8')), "file.onnx")


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux keeps this limit")
def test_a_file_that_swells_is_refused():
    with pytest.raises(ModelError, match=r"^file\.onnx: opening it took more than 1 GiB of memory"):
        open_once(swelling(), "file.onnx", limits=Limits(memory=GIB))


def test_a_file_that_never_ends_is_refused_in_time():
    start = time.monotonic()
    with pytest.raises(ModelError, match=r"^file\.onnx: opening it took more than 8 s$"):
        open_once(slow(), "file.onnx", limits=Limits(seconds=8))
    assert time.monotonic() - start < 12


YES = 'print(\'{"outcome": "ready", "text": "", "tried": {"shape": []}}\')'

BODIES = {
    "crash": ("import os; os.kill(os.getpid(), 11)", r"opening it crashed \(signal 11\)"),
    "silence": ("pass", "ended with code 0 and no verdict"),
    "a lie": ("print('[]')", "no verdict"),
    "a lie with an error code": (
        f"import sys; {YES}; sys.exit(3)",
        "^file.onnx: $",
    ),
    "escapes": (
        'print(\'{"outcome": "refused", "tried": {"shape": []}, "text": "a\\\\u001b[2J\\\\nb"}\')',
        r"^file\.onnx: a \[2J b$",
    ),
    "a flood": (
        "from hardening.deployment import sandbox as s; s._limit(9)\nwhile True: print('x' * 9999)",
        r"crashed \(signal 25\)|no verdict",
    ),
}


@pytest.mark.parametrize("what", BODIES)
def test_whatever_the_child_does_the_parent_says_one_line(what, monkeypatch):
    body, reason = BODIES[what]
    start = "import sys; sys.path.insert(0, sys.argv[1])\n"
    monkeypatch.setattr(sandbox, "CHILD", start + body)

    with pytest.raises(ModelError, match=reason) as got:
        open_once(b"x" * (1 << 20), "file.onnx", limits=Limits(seconds=20))
    assert str(got.value).isprintable()


def test_why_it_took_no_images_is_one_line_too(monkeypatch):
    refusal = YES.replace('"shape": []', '"shape": [], "refusal": "a\\\\u001b[2J\\\\nb"')
    monkeypatch.setattr(sandbox, "CHILD", refusal)

    assert open_once(b"", "file.onnx").refusal == "a [2J b"


def test_the_child_has_neither_our_environment_nor_our_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.chdir(tmp_path)
    seen = tmp_path / "seen.json"
    monkeypatch.setattr(
        sandbox,
        "CHILD",
        "import json, os; seen = [dict(os.environ), os.getcwd(), os.listdir('.')]\n"
        f"json.dump(seen, open({str(seen)!r}, 'w'))\n{YES}",
    )

    open_once(b"", "file.onnx")

    environment, folder, files = json.loads(seen.read_text())
    assert set(environment) <= {*sandbox.LIBRARY_VARIABLES, *sandbox.QUIET, "HOME", "TMPDIR"}
    assert not os.path.exists(folder)
    assert files == []
