import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from hardening.deployment.session import Session
from hardening.deployment.twin import Twin
from hardening.deployment.untrusted import read_model
from hardening.errors import ModelError

GOOD = """<ir_version: 10, opset_import: ["" : 20]>
g (float[batch,1,4,4] x) => (float[batch,16] y) { y = Flatten(x) }"""


def changed(data, change):
    proto = onnx.load_model_from_string(data)
    change(proto)
    return proto.SerializeToString()


def external(proto):
    tensor = proto.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", "../../etc/passwd"), ("offset", "0"), ("length", "64")):
        entry = tensor.external_data.add()
        entry.key, entry.value = key, value


def lie(proto):
    del proto.graph.initializer[0].dims[:]
    proto.graph.initializer[0].dims.extend([1 << 13, 1 << 14])


def huge(proto):
    del proto.graph.initializer[0].dims[:]
    proto.graph.initializer[0].dims.extend([1 << 20, 1 << 20])


def negative(proto):
    proto.graph.initializer[0].dims[0] = -8


def strings(proto):
    proto.graph.initializer.append(helper.make_tensor("s", TensorProto.STRING, [1], [b"x"]))


def foreign(proto):
    proto.graph.node[0].domain = "com.example"
    proto.opset_import.append(helper.make_opsetid("com.example", 1))


def second_input(proto):
    proto.graph.input.append(helper.make_tensor_value_info("z", 1, [1]))


def second_output(proto):
    proto.graph.output.append(proto.graph.input[0])


def functions(proto):
    proto.functions.add().name = "f"


def cycle(proto):
    proto.graph.node[0].input[0] = proto.graph.node[-1].output[0]


CHANGES = {
    "external data": (external, "points to another file"),
    "dims beyond the data": (lie, "but holds 216 elements"),
    "absurd dims": (huge, "expected at most"),
    "negative dims": (negative, "has shape"),
    "strings": (strings, "is of type STRING"),
    "foreign domain": (foreign, "operator com.example:"),
    "two inputs": (second_input, r"got inputs \['input', 'z'\]"),
    "two outputs": (second_output, "got outputs"),
    "functions": (functions, "functions"),
    "a cycle": (cycle, "not a valid ONNX graph"),
}

HEAD = '<ir_version: 10, opset_import: ["" : 20]> g (float[batch,1,4,4] x) => (float[batch,16] y)'

GRAPHS = {
    "loop": (
        HEAD
        + """ <int64 n = {2000000}, bool go = {1}> {
        z = Loop(n, go, x) <body = b (int64 i, bool c, float[batch,1,4,4] v)
            => (bool c2, float[batch,1,4,4] w) { c2 = Identity(c) w = Sin(v) }>
        y = Flatten(z) }""",
        "operator Loop holds a sub-graph",
    ),
    "if": (
        HEAD
        + """ <bool go = {1}> {
        z = If(go) <then_branch = a () => (float[batch,1,4,4] p) { p = Identity(x) },
            else_branch = b () => (float[batch,1,4,4] q) { q = Identity(x) }>
        y = Flatten(z) }""",
        "operator If holds a sub-graph",
    ),
    "activation bomb": (
        HEAD
        + """ <int64[2] size = {100000, 100000}> {
        big = ConstantOfShape(size) m = ReduceMax<keepdims = 0>(big) f = Flatten(x)
        y = Add(f, m) }""",
        "activation 'big' has shape",
    ),
    "bomb of computed size": (
        HEAD
        + """ <int64[2] size = {1000, 1000}, int64[2] power = {4, 4}> {
        more = Pow(size, power) big = ConstantOfShape(more)
        m = ReduceMax<keepdims = 0>(big) f = Flatten(x) y = Add(f, m) }""",
        "ConstantOfShape makes a tensor whose size cannot be told",
    ),
    "range of computed size": (
        HEAD
        + """ <float zero = {0}, float one = {1}, float big = {1e5}> {
        limit = Mul(big, big) r = Range(zero, limit, one) m = ReduceMax<keepdims = 0>(r)
        f = Flatten(x) y = Add(f, m) }""",
        "Range makes a tensor whose size cannot be told",
    ),
    "outer product": (
        HEAD
        + """ <float[8192] v = {0}> { f = Flatten(x) y = Identity(f) }""".replace("{0}", "{0.0}"),
        "holds 1 elements",
    ),
    "randomness": (
        HEAD + " { n = RandomNormalLike(x) z = Add(x, n) y = Flatten(z) }",
        "RandomNormalLike is random",
    ),
    "dropout switched on": (
        HEAD + " <float half = {0.5}, bool on = {1}> { z = Dropout(x, half, on) y = Flatten(z) }",
        "Dropout is in training mode",
    ),
    "logits of rank four": (
        HEAD.replace("[batch,16]", "[batch,1,4,4]") + " { y = Relu(x) }",
        r"expected FLOAT \(batch, K\)",
    ),
    "images of integers": (
        HEAD.replace("float[batch,1,4,4]", "uint8[batch,1,4,4]")
        + " { z = Cast<to = 1>(x) y = Flatten(z) }",
        "input is UINT8",
    ),
}


@pytest.mark.parametrize("reader", [read_model, None], ids=["read_model", "Session and Twin"])
@pytest.mark.parametrize("what", ["truncated", "junk", "empty", "not a graph"])
def test_bytes_that_are_no_model_are_refused(reader, what, floats):
    data = {
        "truncated": floats["plain"][: len(floats["plain"]) // 2],
        "junk": b"\x80\x04\x95" + bytes(range(256)) * 4,
        "empty": b"",
        "not a graph": helper.make_tensor("t", 1, [1], [1.0]).SerializeToString(),
    }[what]
    readers = [lambda data: reader(data, "file.onnx")] if reader else [Session, Twin]
    for read in readers:
        with pytest.raises(ModelError, match=r"^(file\.onnx|ONNX file \w{12}): ") as got:
            read(data)
        assert "\n" not in str(got.value)


@pytest.mark.parametrize("what", CHANGES)
def test_a_tampered_file_is_refused_by_name(what, floats):
    change, reason = CHANGES[what]
    data = changed(floats["plain"], change)

    with pytest.raises(ModelError, match=rf"^file\.onnx: .*({reason})") as got:
        read_model(data, "file.onnx")
    assert "\n" not in str(got.value)
    for use in (Session, Twin):
        with pytest.raises(ModelError):
            use(data)


@pytest.mark.parametrize("what", GRAPHS)
def test_a_hostile_graph_is_refused_before_it_runs(what, tools):
    text, reason = GRAPHS[what]

    with pytest.raises(ModelError, match=rf"^file\.onnx: .*{reason}") as got:
        read_model(tools.parsed(text), "file.onnx")
    assert "\n" not in str(got.value)


def test_good_files_pass(floats, ints, tools):
    for data in (*floats.values(), *ints.values(), tools.parsed(GOOD)):
        assert read_model(data, "file.onnx").graph.node


def test_an_index_range_over_the_batch_passes(tools):
    text = (
        HEAD
        + """ <int64 zero = {0}, int64 one = {1}> {
        s = Shape<start = 0, end = 1>(x) n = Squeeze(s) r = Range(zero, n, one)
        f = Flatten(x) y = Gather<axis = 0>(f, r) }"""
    )

    assert read_model(tools.parsed(text), "file.onnx")


@pytest.mark.parametrize(
    ("text", "operator"),
    [
        (HEAD + " { z = Tan(x) y = Flatten(z) }", "operator Tan is not one a twin can compute"),
        (
            HEAD + " { z = AveragePool<kernel_shape = [2, 2], dilations = [2, 2], "
            "pads = [1, 1, 1, 1]>(x) y = Flatten(z) }",
            "AveragePool with dilations",
        ),
        (HEAD.replace('"" : 20', '"" : 8') + " { y = Flatten(x) }", "got ONNX opset 8"),
    ],
    ids=["unknown operator", "unknown dilation", "old opset"],
)
def test_a_twin_refuses_what_it_cannot_compute(text, operator, tools):
    with pytest.raises(ModelError, match=rf"^ONNX file \w{{12}}: .*{operator}"):
        Twin(tools.parsed(text))


def test_a_file_is_never_larger_than_the_limit(monkeypatch, floats):
    monkeypatch.setattr("hardening.deployment.untrusted.MAX_BYTES", 100)

    with pytest.raises(ModelError, match=r"got \d+ bytes, expected at most 100"):
        read_model(floats["plain"], "file.onnx")


def test_typed_fields_are_counted_like_raw_data(tools):
    proto = onnx.load_model_from_string(tools.parsed(GOOD))
    tensor = numpy_helper.from_array(np.zeros((4, 4), np.float32), "t")
    tensor.ClearField("raw_data")
    tensor.float_data.extend([0.0] * 15)
    proto.graph.initializer.append(tensor)

    with pytest.raises(ModelError, match=r"has shape \[4, 4\] but holds 15 elements"):
        read_model(proto.SerializeToString(), "file.onnx")
