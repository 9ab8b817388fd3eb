"""A foreign file meets, in the child, the images and the batches that it will meet later."""

import json
import sys

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from hardening.deployment import opening
from hardening.deployment.contract import Contract, with_contract
from hardening.deployment.float_form import float_form
from hardening.deployment.opening import Opening, likely, try_out
from hardening.deployment.sandbox import Limits, open_once
from hardening.deployment.session import CHUNK, Session
from hardening.deployment.twin import Twin
from hardening.errors import ModelError, NoFloatForm

GIB = 1 << 30

HEAD = '<ir_version: 10, opset_import: ["" : 20]> g (float[batch,1,4,4] x) => (float[batch,16] y)'
OPEN = '<ir_version: 10, opset_import: ["" : 20]> g (float[batch,C,H,W] x) => (float[batch,K] y)'
POOL = "{ p = GlobalAveragePool(x) y = Flatten(p) }"


def parsed(text, **stored):
    model = onnx.parser.parse_model(text)
    for name, value in stored.items():
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
    return model.SerializeToString()


def squaring():
    """65536 numbers for each pair of images: 256 KiB of one image, 1 GiB of 64."""
    return parsed(
        f"{HEAD} {{ f = Flatten(x) t = Transpose<perm = [1, 0]>(f) p = MatMul(f, t) "
        "u = Unsqueeze(p, axis) e = Expand(u, size) s = Sin(e) q = Mul(s, e) "
        "r = ReduceMean<keepdims = 0>(q) y = Add(f, r) }",
        axis=np.array([0]),
        size=np.array([65536, 1, 1]),
    )


def remembered():
    """100 products of half a million numbers an image: freed one by one, but kept for gradients."""
    products = " ".join(f"p{i + 1} = Mul(p{i}, p{i})" for i in range(100))
    return parsed(
        f"{HEAD} {{ f = Flatten(x) w = Unsqueeze(f, axis) p0 = Expand(w, size) {products} "
        "y = ReduceMean<keepdims = 0>(p100, axis) }",
        axis=np.array([1]),
        size=np.array([1, 1 << 15, 16]),
    )


def growing():
    """The sum of every pair of pixels: 64 MiB of an image of 64 x 64, 4 MiB of one of 32 x 32."""
    return parsed(
        f"{OPEN.replace('C,', '3,')} {{ f = Flatten(x) a = Unsqueeze(f, one) b = Unsqueeze(f, two) "
        "s = Add(a, b) r = ReduceMean<keepdims = 0>(s, one) m = ReduceMean<keepdims = 1>(r, last) "
        "p = GlobalAveragePool(x) q = Flatten(p) y = Add(q, m) }",
        one=np.array([1]),
        two=np.array([2]),
        last=np.array([1]),
    )


@pytest.fixture
def runs(monkeypatch):
    """Shapes of what sessions, and twins, were given."""
    seen = {"session": [], "twin": []}
    session, forward = Session.__call__, Twin.forward

    def call(self, x):
        seen["session"].append(tuple(x.shape))
        return session(self, x)

    def pass_forward(self, x):
        seen["twin"].append((tuple(x.shape), x.requires_grad))
        return forward(self, x)

    monkeypatch.setattr(Session, "__call__", call)
    monkeypatch.setattr(Twin, "forward", pass_forward)
    return seen


def test_session_and_twin_run_as_an_evaluation_runs_them(runs):
    try_out(parsed(f"{HEAD} {{ y = Flatten(x) }}"), Opening())

    assert runs["session"] == [(1, 1, 4, 4), (CHUNK, 1, 4, 4)]
    assert runs["twin"][-2:] == [((CHUNK, 1, 4, 4), False), ((8, 1, 4, 4), True)]


QUANTIZED = parsed(
    f"{HEAD} <float s = {{0.01}}, uint8 z = {{0}}> "
    "{ q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z) n = Neg(d) y = Flatten(n) }"
)


def test_the_float_form_of_an_int8_file_is_made_and_run_there_too(runs, monkeypatch):
    made = []
    monkeypatch.setattr(opening, "float_form", lambda data: made.append(data) or float_form(data))
    try_out(QUANTIZED, Opening())

    assert made == [QUANTIZED]
    assert runs["session"] == 2 * [(1, 1, 4, 4), (CHUNK, 1, 4, 4)]
    assert runs["twin"][-2:] == [((CHUNK, 1, 4, 4), False), ((8, 1, 4, 4), True)]
    assert len([grad for _, grad in runs["twin"] if grad]) == 2


def test_a_file_without_a_float_form_may_pass_and_one_whose_form_swells_does_not(monkeypatch):
    def refuses(_):
        raise NoFloatForm(reason)

    monkeypatch.setattr(opening, "float_form", refuses)
    reason = "operator Max on integers has no float form"
    assert try_out(QUANTIZED, Opening()).shape == (1, 4, 4)
    reason = "[enforce fail] cannot allocate memory"
    with pytest.raises(NoFloatForm, match="cannot allocate"):
        try_out(QUANTIZED, Opening())


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        (OPEN, (3, 32, 32)),
        (OPEN.replace("C,", "3,"), (3, 32, 32)),
        (OPEN.replace("C,", "1,"), (1, 28, 28)),
        (OPEN.replace("H,W", "48,W"), (3, 48, 32)),
        (OPEN.replace("C,H,W", "64,W,3"), (64, 32, 3)),
        (OPEN.replace("C,H,W", "H,W,3"), (32, 32, 3)),
    ],
)
def test_what_a_file_leaves_open_is_filled_as_is_likely(head, expected):
    assert try_out(parsed(f"{head} {POOL}"), Opening()).shape == expected


def test_the_images_are_the_dataset_s_where_it_is_known():
    data = parsed(f"{OPEN} {POOL}")
    assert open_once(data, "file.onnx", Opening(shape=(4, 5, 6))).shape == (4, 5, 6)


def test_a_file_that_needs_larger_images_is_tried_on_larger_ones():
    weights = np.zeros((2, 3, 50, 50), np.float32)
    data = parsed(
        f"{OPEN.replace('C,', '3,')} {{ c = Conv<strides = [50, 50]>(x, w) "
        "p = GlobalAveragePool(c) y = Flatten(p) }",
        w=weights,
    )
    assert try_out(data, Opening()).shape == (3, 224, 224)
    with pytest.raises(ModelError, match=r"ONNX Runtime does not run images \(1, 3, 32, 32\)"):
        try_out(data, Opening(shape=(3, 32, 32)))


def test_open_sizes_have_likely_shapes_in_order():
    assert list(likely((0, 0, 0))) == [(3, 32, 32), (3, 224, 224), (1, 28, 28), (1, 224, 224)]


def test_a_guess_of_ours_is_no_reason_to_refuse_a_file():
    """It says any size and takes one; whether that is the dataset's is asked later."""
    data = parsed(
        f"{OPEN.replace('C,', '3,')} {{ f = Flatten(x) y = MatMul(f, w) }}",
        w=np.zeros((3 * 48 * 48, 10), np.float32),
    )
    tried = try_out(data, Opening())
    assert tried.shape == ()
    assert tried.refusal.startswith("ONNX Runtime does not run images (1, 3, 224, 224): ")
    assert try_out(data, Opening(shape=(3, 48, 48))).shape == (3, 48, 48)


def test_a_contract_of_the_user_is_kept():
    data = parsed(f"{OPEN.replace('C,H,W', 'H,W,3')} {POOL}")
    what = Opening(contract=Contract(layout="NHWC"), shape=(3, 9, 9))
    assert try_out(data, what).shape == (3, 9, 9)
    other = Opening(contract=Contract(range="0..255"))
    with pytest.raises(ModelError, match=r"^file\.onnx: carries the contract") as caught:
        open_once(with_contract(data, Contract(layout="NHWC")), "file.onnx", other)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("contract", [None, Contract()])
def test_junk_is_one_line(contract):
    with pytest.raises(
        ModelError, match=r"^ONNX file \w{12}: not an ONNX file, or a truncated one$"
    ):
        try_out(b"\xff" * 100, Opening(contract=contract))


def test_images_that_the_file_does_not_take_are_one_line():
    with pytest.raises(ModelError, match=r"^file\.onnx: got images of shape \(1, 3, 9, 9\), expec"):
        open_once(parsed(f"{HEAD} {{ y = Flatten(x) }}"), "file.onnx", Opening(shape=(3, 9, 9)))


limited = pytest.mark.skipif(sys.platform != "linux", reason="only Linux keeps this limit")


@limited
def test_a_file_that_swells_with_the_batch_does_so_in_the_child():
    data = squaring()
    with torch.no_grad():
        Session(data)(torch.zeros(1, 1, 4, 4))  # one image takes next to nothing
    with pytest.raises(ModelError, match=r"^file\.onnx: opening it took more than 1 GiB of memory"):
        open_once(data, "file.onnx", limits=Limits(memory=GIB))


@limited
@pytest.mark.slow
def test_a_file_that_swells_where_gradients_are_taken_does_so_in_the_child():
    with pytest.raises(ModelError, match=r"^file\.onnx: opening it took more than 1 GiB of memory"):
        open_once(remembered(), "file.onnx", limits=Limits(memory=GIB))
    open_once(remembered(), "file.onnx", limits=Limits(memory=4 * GIB))


@limited
@pytest.mark.slow
def test_a_file_that_swells_with_an_open_side_does_so_at_the_dataset_s():
    small, large = (Opening(shape=(3, side, side)) for side in (8, 64))
    assert open_once(growing(), "file.onnx", small, Limits(memory=GIB)).shape == (3, 8, 8)
    with pytest.raises(ModelError, match=r"^file\.onnx: opening it took more than 1 GiB of memory"):
        open_once(growing(), "file.onnx", large, Limits(memory=GIB))


def several(*outputs):
    ends = ", ".join(f"{kind}[{sizes}] {name}" for kind, sizes, name in outputs)
    return parsed(
        f'<ir_version: 10, opset_import: ["" : 20]> g (float[batch,1,4,4] x) => ({ends}) '
        "{ scores = Flatten(x) label = ArgMax<axis = 1, keepdims = 0>(scores) "
        "map = Relu(x) twice = Add(scores, scores) }"
    )


SCORES, LABEL, MAP = (
    ("float", "batch,16", "scores"),
    ("int64", "batch", "label"),
    ("float", "batch,1,4,4", "map"),
)
TWICE = ("float", "batch,16", "twice")


def test_of_several_outputs_each_that_may_answer_is_run(monkeypatch):
    opened = []
    monkeypatch.setattr(opening, "_try_twin", lambda data, _: opened.append(data))
    try_out(several(LABEL, SCORES, MAP, TWICE), Opening())

    props = [onnx.load_model_from_string(data).metadata_props for data in opened]
    assert [json.loads(entry.value)["output"] for (entry,) in props] == ["scores", "twice"]


def test_several_outputs_of_which_none_may_answer_are_refused():
    with pytest.raises(ModelError, match=r": got outputs \['label', 'map'\], expected one that is"):
        try_out(several(LABEL, MAP), Opening())
    with pytest.raises(ModelError, match=r"or one of them as model\.output"):
        try_out(several(LABEL, SCORES), Opening(contract=Contract()))
