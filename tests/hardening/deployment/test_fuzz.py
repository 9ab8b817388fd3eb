"""Valid files, damaged at random: refused by name or accepted, never anything else."""

import os
import time

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import numpy_helper

from hardening.deployment.opening import ANY
from hardening.deployment.sandbox import Limits, open_once
from hardening.deployment.untrusted import read_model
from hardening.errors import ModelError

ENDS = "g (float[batch,3,8,8] x) => (float[batch,10] y)"

FLOAT = f"""<ir_version: 10, opset_import: ["" : 20]> {ENDS}
<int64[1] minus = {{-1}}, int64[1] zero = {{0}}, int64[1] one = {{1}},
int64[8] pads = {{0,0,1,1,0,0,1,1}}> {{
a = Pad(x, pads) b = Conv<kernel_shape = [3, 3]>(a, conv, bias) c = Relu(b)
d = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(c) s = Shape(d) n = Slice(s, zero, one)
t = Concat<axis = 0>(n, minus) f = Reshape(d, t) y = Gemm<transB = 1>(f, dense, last) }}"""

INT8 = f"""<ir_version: 10, opset_import: ["" : 20, "com.microsoft" : 1]> {ENDS}
<float s = {{0.02}}, uint8 z = {{3}}, float sw = {{0.01}}, int8 zw = {{0}}> {{
q = QuantizeLinear(x, s, z) dq = DequantizeLinear(q, s, z) w = DequantizeLinear(conv8, sw, zw)
b = Conv<kernel_shape = [3, 3], pads = [1, 1, 1, 1]>(dq, w, bias) qb = QuantizeLinear(b, s, z)
qa = com.microsoft.QLinearAdd(qb, s, z, qb, s, z, s, z)
qp = com.microsoft.QLinearGlobalAveragePool(qa, s, z, s, z) p = DequantizeLinear(qp, s, z)
f = Flatten(p) y = Gemm<transB = 1>(f, head, last) }}"""


def built(text):
    rng = np.random.default_rng(0)
    model = onnx.parser.parse_model(text)
    weights = {
        "conv": rng.normal(size=(4, 3, 3, 3)).astype(np.float32),
        "conv8": rng.integers(-127, 127, (4, 3, 3, 3)).astype(np.int8),
        "bias": np.zeros(4, np.float32),
        "dense": rng.normal(size=(10, 64)).astype(np.float32),
        "head": rng.normal(size=(10, 4)).astype(np.float32),
        "last": np.zeros(10, np.float32),
    }
    read = {name for node in model.graph.node for name in node.input}
    used = [numpy_helper.from_array(value, name) for name, value in weights.items() if name in read]
    model.graph.initializer.extend(used)
    return model.SerializeToString()


BASES = [built(FLOAT), built(INT8)]
OPERATORS = sorted({schema.name for schema in onnx.defs.get_all_schemas()})
NUMBERS = st.one_of(
    st.integers(-3, 300), st.sampled_from([-(2**63), 2**63 - 1, 2**31, 2**40, 10**6])
)
places = st.integers(0, 1 << 20)


@st.composite
def damaged(draw):
    """Bytes of a base with bits flipped, an end cut off, or pieces of a base put elsewhere."""
    data = bytearray(draw(st.sampled_from(BASES)))
    kind = draw(st.sampled_from(["flip", "cut", "splice"]))
    if kind == "cut":
        return bytes(data[: draw(places) % len(data)])
    if kind == "flip":
        for place, bit in draw(st.lists(st.tuples(places, st.integers(0, 7)), min_size=1)):
            data[place % len(data)] ^= 1 << bit
        return bytes(data)
    other = draw(st.sampled_from(BASES))
    start, length = draw(places) % len(other), draw(st.integers(1, 200))
    place, gone = draw(places) % len(data), draw(st.integers(0, 200))
    data[place : place + gone] = other[start : start + length]
    return bytes(data)


@st.composite
def tampered(draw):
    """A base whose fields say something else, in valid protobuf."""
    model = onnx.load_model_from_string(draw(st.sampled_from(BASES)))
    for _ in range(draw(st.integers(1, 4))):
        draw(st.sampled_from(CHANGES))(draw, model)
    return model.SerializeToString()


def _pick(draw, things):
    return things[draw(places) % len(things)]


def change_dims(draw, model):
    tensor = _pick(draw, model.graph.initializer)
    del tensor.dims[:]
    tensor.dims.extend(draw(st.lists(NUMBERS, max_size=5)))


def change_numbers(draw, model):
    tensor = _pick(draw, model.graph.initializer)
    tensor.raw_data = draw(st.binary(min_size=len(tensor.raw_data), max_size=len(tensor.raw_data)))


def change_integers(draw, model):
    tensor = _pick(draw, [t for t in model.graph.initializer if t.data_type == 7] or [None])
    if tensor is not None:
        count = int(np.prod(tensor.dims)) if 0 < len(tensor.dims) < 3 else 1
        values = draw(st.lists(NUMBERS, min_size=min(count, 8), max_size=8))
        tensor.CopyFrom(numpy_helper.from_array(np.array(values[:count], np.int64), tensor.name))


def change_type(draw, model):
    _pick(draw, model.graph.initializer).data_type = draw(st.integers(0, 30))


def change_operator(draw, model):
    _pick(draw, model.graph.node).op_type = draw(st.sampled_from(OPERATORS))


def change_input(draw, model):
    node = _pick(draw, model.graph.node)
    names = [name for other in model.graph.node for name in (*other.input, *other.output)]
    node.input[draw(places) % len(node.input)] = draw(st.sampled_from([*names, "", "none"]))


def drop_input(draw, model):
    node = _pick(draw, model.graph.node)
    del node.input[draw(places) % len(node.input) :]
    node.input.append("x")


def change_attribute(draw, model):
    node = _pick(draw, model.graph.node)
    name = draw(st.sampled_from(["kernel_shape", "pads", "axis", "to", "group", "perm", "value"]))
    given = draw(st.one_of(NUMBERS, st.lists(NUMBERS, min_size=1, max_size=5), st.floats()))
    node.attribute.append(onnx.helper.make_attribute(name, given))


def change_image(draw, model):
    dims = model.graph.input[0].type.tensor_type.shape.dim
    dims[draw(places) % len(dims)].dim_value = draw(NUMBERS)


def change_opset(draw, model):
    model.opset_import[0].version = draw(st.integers(-1, 40))


def repeat_node(draw, model):
    model.graph.node.add().CopyFrom(_pick(draw, model.graph.node))


def drop_node(draw, model):
    del model.graph.node[draw(places) % len(model.graph.node)]
    model.graph.node.add(op_type="Flatten", input=["x"], output=["y2"])


CHANGES = [
    change_dims,
    change_numbers,
    change_integers,
    change_type,
    change_operator,
    change_input,
    drop_input,
    change_attribute,
    change_image,
    change_opset,
    repeat_node,
    drop_node,
]
QUIETLY = {
    "deadline": None,
    "database": None,
    "derandomize": True,
    "suppress_health_check": list(HealthCheck),
}


def judged(data):
    """Whether the gate accepts `data`; it does so or refuses, quickly, in one printable line."""
    start = time.process_time()
    refusal = refused(read_model, data, "file.onnx")
    assert time.process_time() - start < 5
    return refusal is None


def refused(open_it, *arguments):
    """The words of the refusal, which must be one printable line that names the file."""
    try:
        open_it(*arguments)
    except ModelError as error:
        words = str(error)
    else:
        return None
    assert words.startswith("file.onnx: ")
    assert words.isprintable()
    assert len(words) < 1000
    return words


def test_the_bases_are_accepted():
    assert all(judged(data) for data in BASES)


@pytest.fixture
def empty(tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    yield
    assert os.listdir(tmp_path) == ["empty"]
    assert os.listdir(tmp_path / "empty") == []


@pytest.mark.usefixtures("empty")
@settings(max_examples=250, **QUIETLY)
@given(data=damaged())
def test_damaged_bytes_are_judged(data):
    judged(data)


@pytest.mark.usefixtures("empty")
@settings(max_examples=350, **QUIETLY)
@given(data=tampered())
def test_tampered_fields_are_judged(data):
    judged(data)


@pytest.mark.slow
@pytest.mark.usefixtures("empty")
@settings(max_examples=20_000, **QUIETLY)
@given(data=st.one_of(damaged(), tampered()))
def test_very_many_are_judged(data):
    judged(data)


def opened(data):
    refused(open_once, data, "file.onnx", ANY, Limits(seconds=60, memory=2 << 30))


@pytest.mark.usefixtures("empty")
@settings(max_examples=1, **QUIETLY)
@given(data=tampered().filter(judged))
def test_what_the_gate_accepts_opens_or_is_refused_in_a_process_of_its_own(data):
    opened(data)


@pytest.mark.slow
@pytest.mark.usefixtures("empty")
@settings(max_examples=60, **QUIETLY)
@given(data=st.one_of(damaged(), tampered().filter(judged)))
def test_many_open_or_are_refused_in_a_process_of_its_own(data):
    opened(data)
