"""Real hostile files, one for each way that is known: refused by name, quickly, before a session.

The first ones are those of which a checker, a loader or a runtime accepts some; see the names.
"""

import hashlib
import os
import time

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from hardening.deployment import session
from hardening.deployment.session import Session
from hardening.deployment.twin import Twin
from hardening.deployment.untrusted import read_model
from hardening.errors import ModelError

HEAD = '<ir_version: 10, opset_import: ["" : 20]> g (float[batch,1,4,4] x) => (float[batch,16] y)'
LARGE = HEAD.replace("1,4,4", "3,128,128").replace("batch,16", "batch,49152")
CONTRIB = HEAD.replace('"" : 20', '"" : 20, "com.microsoft" : 1')


def graph(body, head=HEAD):
    return onnx.parser.parse_model(f"{head} {body}")


def weighted():
    """y = x W, its W of 16 x 16 the only stored tensor."""
    model = graph("{ f = Flatten(x) y = MatMul(f, W) }")
    model.graph.initializer.append(numpy_helper.from_array(np.eye(16, dtype=np.float32), "W"))
    return model


def outside(location, offset="0", length="1024"):
    def build(folder):
        secret = folder / "outside" / "secret.bin"
        secret.parent.mkdir()
        secret.write_bytes(bytes(1024))
        (folder / "inside").mkdir()
        for link, make in (("soft", os.symlink), ("hard", os.link)):
            make(secret, folder / "inside" / link)
        (folder / "inside" / "weights").write_bytes(bytes(1024))
        model = weighted()
        tensor = model.graph.initializer[0]
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        place = location.format(secret=secret)
        for key, value in (("location", place), ("offset", offset), ("length", length)):
            entry = tensor.external_data.add()
            entry.key, entry.value = key, value
        return model

    return build


def stored(change):
    def build(_):
        model = weighted()
        change(model.graph.initializer[0])
        return model

    return build


def whole(change):
    def build(_):
        model = weighted()
        change(model)
        return model

    return build


def node(**changes):
    def change(model):
        for name, value in changes.items():
            setattr(model.graph.node[0], name, value)

    return whole(change)


def text(body, head=HEAD):
    return lambda _: graph(body, head)


def dims(*sizes):
    def change(tensor):
        del tensor.dims[:]
        tensor.dims.extend(sizes)

    return stored(change)


def values(*numbers, kind=np.float32):
    def change(tensor):
        array = np.resize(np.array(numbers, kind), (16, 16))
        tensor.CopyFrom(numpy_helper.from_array(array, "W"))

    return stored(change)


def image(*sizes):
    def change(model):
        for dim, size in zip(model.graph.input[0].type.tensor_type.shape.dim, sizes, strict=True):
            dim.dim_value = size

    return whole(change)


def twice_stored(model):
    model.graph.initializer.append(model.graph.initializer[0])


def undefined_type(tensor):
    tensor.data_type = 99


def both_fields(tensor):
    tensor.float_data.extend([1.0] * 256)


def bad_bool(model):
    tensor = numpy_helper.from_array(np.zeros(4, bool), "flags")
    tensor.raw_data = b"\x00\x01\x02\x01"
    model.graph.initializer.append(tensor)


def claimed(model):
    """The file says that a huge intermediate result is small."""
    other = graph(
        "<int64[2] s = {100000, 100000}> { c = ConstantOfShape(s) m = ReduceMax<keepdims = 0>(c) "
        "f = Flatten(x) y = Add(f, m) }"
    )
    other.graph.value_info.append(helper.make_tensor_value_info("c", 1, [2, 2]))
    model.CopyFrom(other)


def attribute(operator, **attributes):
    def build(_):
        model = graph("{ z = Relu(x) y = Flatten(z) }")
        model.graph.node[0].CopyFrom(helper.make_node(operator, ["x"], ["z"], **attributes))
        return model

    return build


def opset(*versions):
    def change(model):
        del model.opset_import[:]
        model.opset_import.extend(helper.make_opsetid("", version) for version in versions)

    return whole(change)


def not_text(model):
    model.graph.node[0].name = "marker"
    data = model.SerializeToString().replace(b"marker", b"\xff\xfe\xff\xfe\xff\xfe")
    model.ParseFromString(data)


DOUBLED = "".join(f"t{i + 1} = Concat<axis = 1>(t{i}, t{i}) " for i in range(40))
TILED = "".join(f"t{i + 1} = Tile(t{i}, n) " for i in range(12))

ROWS = {
    # the table of what was tried on loaders, checkers and runtimes
    "a file in a folder above": (outside("../outside/secret.bin"), "points to another file"),
    "an absolute path": (outside("{secret}"), "points to another file"),
    "a symbolic link": (outside("soft"), "points to another file"),
    "a hard link": (outside("hard"), "points to another file"),
    "an offset beyond the file": (outside("weights", "99999999"), "points to another file"),
    "a negative length": (outside("weights", "0", "-5"), "points to another file"),
    "an honest file beside it": (outside("weights"), "points to another file"),
    "dims that say 4 TB": (dims(1 << 20, 1 << 20), "expected at most"),
    "dims beyond the data": (dims(1 << 12, 1 << 12), "but holds 256 elements"),
    "40 GB out of nothing": (
        text(
            "<int64[2] s = {100000, 100000}> { c = ConstantOfShape(s) "
            "m = ReduceMax<keepdims = 0>(c) f = Flatten(x) y = Add(f, m) }"
        ),
        "activation 'c' has shape",
    ),
    "two million iterations": (
        text(
            "<int64 n = {2000000}, bool go = {1}> { z = Loop(n, go, x) "
            "<body = b (int64 i, bool c, float[batch,1,4,4] v) => (bool c2, "
            "float[batch,1,4,4] w) { c2 = Identity(c) w = Sin(v) }> y = Flatten(z) }"
        ),
        "operator Loop holds a sub-graph",
    ),
    "an operator of a foreign domain": (node(domain="com.example"), "operator com.example:Flatten"),
    # what else a file can say
    "a runtime's operator that is not listed": (
        text("{ z = com.microsoft.Gelu(x) y = Flatten(z) }", CONTRIB),
        "operator com.microsoft:Gelu",
    ),
    "a quantized operator without its inputs": (
        text("{ z = com.microsoft.QLinearAdd(x) y = Flatten(z) }", CONTRIB),
        "QLinearAdd lacks inputs",
    ),
    "negative dims": (dims(-16, -16), "has shape"),
    "a million dims": (dims(*[1 << 62] * 1_000_000), "has 1000000 dimensions"),
    "a type that does not exist": (stored(undefined_type), "is of type 99"),
    "data twice": (stored(both_fields), "not a valid ONNX graph"),
    "NaN among the weights": (values(float("nan"), 1), "holds values that are not numbers"),
    "NaN in half precision": (values(np.nan, kind=np.float16), "not numbers"),
    "booleans that are neither": (whole(bad_bool), "bytes other than 0 and 1"),
    "two tensors of one name": (whole(twice_stored), "not a valid ONNX graph"),
    "an image of a terabyte": (
        text(
            "{ m = ReduceMax<axes = [2, 3], keepdims = 0>(x) y = Flatten(m) }",
            HEAD.replace('"" : 20', '"" : 13').replace("1,4,4", "16,262144,262144"),
        ),
        "activation 'x' has shape",
    ),
    "an image of negative size": (image(1, -1, 4, 4), "input is FLOAT"),
    "a batch of negative size": (image(-2, 1, 4, 4), "input is FLOAT"),
    "a lie about a bomb": (whole(claimed), "activation 'c' has shape"),
    "every image with every other": (
        text(
            "<int64[2] a = {-1, 1}, int64[2] b = {1, -1}> { p = Reshape(x, a) q = Reshape(x, b) "
            "r = Mul(p, q) m = ReduceMax<keepdims = 0>(r) f = Flatten(x) y = Add(f, m) }",
            LARGE,
        ),
        "activation 'r' has shape",
    ),
    "doubled forty times": (
        text(f"{{ t0 = Flatten(x) {DOUBLED} m = ReduceMax(t40) y = Add(t0, m) }}"),
        "activation '.*' has shape",
    ),
    "tiled again and again": (
        text(
            f"<int64[2] n = {{1, 16}}> {{ t0 = Flatten(x) {TILED} m = ReduceMax(t12) "
            "y = Add(t0, m) }"
        ),
        "activation '.*' has shape",
    ),
    "tiled until 64 bits overflow": (
        text(
            "<int64[4] n = {1, 4611686018427387904, 1, 4}> { t = Tile(x, n) "
            "m = ReduceMax<keepdims = 0>(t) f = Flatten(x) y = Add(f, m) }"
        ),
        "operator Tile is told|not a valid|has shape",
    ),
    "padded until 64 bits overflow": (
        text(
            "<int64[8] p = {0,0,0,9223372036854775807,0,0,0,9223372036854775807}> "
            "{ t = Pad(x, p) m = ReduceMax<keepdims = 0>(t) f = Flatten(x) y = Add(f, m) }"
        ),
        "operator Pad is told|not a valid",
    ),
    "resized by 1e30": (
        text(
            "<float[4] s = {1, 1, 1e30, 1}> { t = Resize(x, , s) m = ReduceMax<keepdims = 0>(t) "
            "f = Flatten(x) y = Add(f, m) }"
        ),
        "operator Resize is told|has shape|not a valid",
    ),
    "a size that pixels decide": (
        text(
            "<int64[2] o = {1, 1}> { c = Cast<to = 7>(x) k = ReduceMax<keepdims = 0>(c) "
            "s = Mul(o, k) e = ConstantOfShape(s) m = ReduceMax<keepdims = 0>(e) "
            "f = Flatten(x) y = Add(f, m) }"
        ),
        "ConstantOfShape makes a tensor whose size cannot be told",
    ),
    "a kernel of 2^40": (
        attribute("MaxPool", kernel_shape=[1 << 40, 1]),
        "attribute 'kernel_shape' of operator MaxPool is 1099511627776",
    ),
    "a million numbers in an attribute": (
        attribute("MaxPool", kernel_shape=[1] * 1_000_000),
        "has 1000000 parts",
    ),
    "a picture decoder": (
        text("{ z = ImageDecoder(x) y = Flatten(z) }"),
        "works on other things than tensors",
    ),
    "a sequence": (
        text("<int64 i = {0}> { s = SequenceConstruct(x) z = SequenceAt(s, i) y = Flatten(z) }"),
        "works on other things than tensors",
    ),
    "a name of megabytes": (node(name="n" * (3 << 20)), "got a name of 3145728 characters"),
    "a name that steers a terminal": (node(name="a\x1b[2J\nb"), r"a\\x1b\[2J\\nb"),
    "a name that is not text": (whole(not_text), "a name is not text"),
    "two opsets": (opset(20, 13), "got ONNX opset 20, 13"),
    "no opset": (opset(), "got ONNX opset none"),
    "an opset too old": (opset(8), "expected one from 9"),
    "an opset of the future": (opset(9999), "got ONNX opset 9999"),
    "an output that is stored": (
        whole(lambda model: setattr(model.graph.output[0], "name", "W")),
        "the output 'W' is a stored tensor|not a valid",
    ),
    "too many nodes": (
        text("{ " + "".join(f"z{i} = Relu(x) " for i in range(20_001)) + "y = Flatten(x) }"),
        "got 20002 nodes",
    ),
}


@pytest.mark.parametrize("row", ROWS)
def test_a_hostile_file_is_refused_before_a_session_is_made(row, tmp_path, monkeypatch):
    build, reason = ROWS[row]
    path = tmp_path / "hostile.onnx"
    path.write_bytes(build(tmp_path).SerializeToString())
    (tmp_path / "inside").mkdir(exist_ok=True)
    monkeypatch.chdir(tmp_path / "inside")  # where a runtime would look for other files
    monkeypatch.setattr(session, "start", lambda *_: pytest.fail("a session was made"))

    start = time.process_time()
    with pytest.raises(ModelError, match=rf"^hostile\.onnx: .*({reason})") as got:
        read_model(path.read_bytes(), "hostile.onnx")
    assert time.process_time() - start < 5
    assert str(got.value).isprintable()
    assert len(str(got.value)) < 600
    for use in (Session, Twin):
        with pytest.raises(ModelError, match=reason):
            use(path.read_bytes())


def test_bytes_are_hashed_and_run_not_a_path(tmp_path, tools):
    """A file that changes after it was read changes nothing."""
    path = tmp_path / "model.onnx"
    path.write_bytes(weighted().SerializeToString())
    session = Session(path.read_bytes())
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    path.write_bytes(b"something else")

    assert session.facts().sha256 == digest
    assert session(tools.pictures(2, (1, 4, 4))).shape == (2, 16)


def test_a_long_chain_of_nodes_neither_recurses_nor_takes_long(tools):
    chain = "".join(f"z{i + 1} = Relu(z{i}) " for i in range(10_000))
    data = graph(f"{{ z0 = Relu(x) {chain} y = Flatten(z10000) }}").SerializeToString()
    x = tools.pictures(2, (1, 4, 4))

    start = time.process_time()
    assert Session(data)(x).equal(x.flatten(1))
    assert time.process_time() - start < 30
