import getpass
import hashlib
import os
import tempfile
from pathlib import Path

import onnx
import pytest
import torch
from onnx import helper

from hardening.deployment.contract import Contract, contract_of, with_contract
from hardening.deployment.export import export, strip
from hardening.deployment.lineage import Lineage, belongs, owed, read_lineage, stamp
from hardening.deployment.session import Session
from hardening.deployment.signature import graph_sha256
from hardening.deployment.twin import Twin
from hardening.deployment.unstamped import unstamp
from hardening.errors import BrokenPromise, ModelError


def lineage(data, **changes):
    graph = graph_sha256(data)
    said = {
        "name": "run/tuned",
        "version": graph[:12],
        "graph": graph,
        "parent": "p" * 64,
        "data": "d" * 64,
        "recipe": "r" * 64,
        "evidence": "e" * 64,
        "threat": "linf eps 0.1",
        "clean_accuracy": "0.9000 [0.8000, 0.9500] n 60",
        "robust_accuracy": "0.5000 [0.4000, 0.6000] n 60",
        "due": "white-box, transfer",
        "temper": "0.1.0",
    }
    return Lineage(**(said | changes))


def changed(data, change):
    model = onnx.load_model_from_string(data)
    change(model)
    return model.SerializeToString()


def test_stamping_changes_no_logit_and_no_gradient(float_file, int8_file, tools):
    x = tools.pictures(16)
    for data in (float_file, int8_file):
        stamped = stamp(data, lineage(data))

        assert stamped != data
        assert Session(stamped)(x).equal(Session(data)(x))
        gradients = []
        for file in (data, stamped):
            z = x.clone().requires_grad_()
            logits = Twin(file)(z)
            gradients.append(torch.autograd.grad(logits.logsumexp(1).sum(), z)[0])
        assert Twin(stamped)(x).equal(Twin(data)(x))
        assert gradients[0].equal(gradients[1])


def test_a_stamped_file_says_what_is_due_and_an_unknown_kind_is_refused(floats):
    data = floats["plain"]

    assert owed(data, "a.onnx") == ()
    assert owed(stamp(data, lineage(data, due="")), "a.onnx") == ()
    assert owed(stamp(data, lineage(data)), "a.onnx") == ("white-box", "transfer")
    with pytest.raises(ModelError, match=r"^a.onnx: .* attacks of kind 'psychic', expected white"):
        owed(stamp(data, lineage(data, due="transfer, psychic")), "a.onnx")


def test_what_is_stamped_can_be_read_and_is_the_measured_graph(floats):
    data = floats["plain"]
    stamped = stamp(data, lineage(data))
    facts = Session(data).facts()

    assert read_lineage(data) is None
    assert read_lineage(stamped) == lineage(data)
    assert read_lineage(stamp(data, lineage(data, parent=""))).parent == ""
    assert facts.graph_sha256 == graph_sha256(stamped) == Session(stamped).facts().graph_sha256
    assert belongs(data, facts)
    assert belongs(stamped, facts)
    assert not belongs(floats["residual"], facts)
    assert not belongs(b"junk", facts)


def test_stamping_is_deterministic_and_replaces_only_its_own(floats):
    data = floats["plain"]
    mine = changed(
        data, lambda m: helper.set_model_props(m, {"classes": "a,b", "temper.lineage.x": "y"})
    )
    once = stamp(mine, lineage(data))

    assert stamp(mine, lineage(data)) == once == stamp(once, lineage(data))
    props = {p.key: p.value for p in onnx.load_model_from_string(once).metadata_props}
    assert props["classes"] == "a,b"
    assert "temper.lineage.x" not in props
    assert graph_sha256(once) == graph_sha256(data)


def test_a_file_without_its_stamp_is_the_measured_one_byte_for_byte(floats, ints):
    for data in (floats["plain"], ints["plain"]):
        assert unstamp(stamp(data, lineage(data))) == data == unstamp(data)


def test_a_lineage_of_another_graph_is_not_stamped(floats):
    with pytest.raises(BrokenPromise, match=r"run/tuned: the stamped file has the graph \w{64}"):
        stamp(floats["plain"], lineage(floats["residual"]))


@pytest.mark.parametrize(
    "change",
    [
        lambda model: setattr(model.graph.node[0], "op_type", "Neg"),
        lambda model: setattr(model.graph.node[0], "name", "another"),
        lambda model: setattr(model.opset_import[0], "version", 21),
        lambda model: setattr(
            model.graph.initializer[0],
            "raw_data",
            bytes([model.graph.initializer[0].raw_data[0] ^ 1])
            + model.graph.initializer[0].raw_data[1:],
        ),
    ],
    ids=["operator", "name", "opset", "one bit of a weight"],
)
def test_any_change_of_the_graph_changes_its_digest(change, floats):
    assert graph_sha256(changed(floats["plain"], change)) != graph_sha256(floats["plain"])


def test_an_evidence_without_graph_digests_is_held_to_the_bytes(floats):
    data = floats["plain"]
    old = Session(data).facts().model_copy(update={"graph_sha256": ""})

    assert old.identity == hashlib.sha256(data).hexdigest()
    assert belongs(data, old)
    assert not belongs(stamp(data, lineage(data)), old)


@pytest.mark.parametrize(
    "props",
    [{"name": "\x1b[2J"}, {"threat": "x" * 501}, {"unknown": "x"}, {"graph": None}],
    ids=["steers a terminal", "long", "unknown", "missing"],
)
def test_a_damaged_lineage_is_refused_by_name(props, floats):
    data = floats["plain"]
    said = {**lineage(data).model_dump(), **props}
    given = {f"temper.lineage.{key}": text for key, text in said.items() if text is not None}
    damaged = changed(data, lambda model: helper.set_model_props(model, given))

    with pytest.raises(ModelError, match=r"^ONNX file \w{12}: its lineage is damaged"):
        read_lineage(damaged)


@pytest.mark.parametrize("kind", ["float", "int8"])
def test_an_exported_file_names_no_place_no_person_and_no_line_of_source(kind, floats, ints):
    """The exporter leaves stack traces; the quantizer works on files in a temporary folder."""
    words = {str(Path.home()), tempfile.gettempdir(), os.getcwd(), "site-packages", "quantize-"}
    words |= {".py", "/usr", 'File "', "def forward", "self.", "return ", "stack_trace", "conftest"}
    user = getpass.getuser()
    for data in ({"float": floats, "int8": ints}[kind]).values():
        text = data.decode("latin-1")
        assert not [word for word in words if word in text]
        assert user not in {part for part in text.split() if part.isidentifier()}


def test_a_trace_anywhere_in_the_graph_is_stripped(models, tools, floats):
    secret = "/home/someone/net.py, line 3"
    model = onnx.load_model_from_string(floats["plain"])
    node = model.graph.node[0]
    node.attribute.append(helper.make_attribute("value", helper.make_tensor("t", 1, [1], [1.0])))
    node.attribute[-1].doc_string = node.attribute[-1].t.doc_string = secret
    for part in (model, model.graph, node, model.graph.initializer[0], model.graph.input[0]):
        part.doc_string = secret
        part.metadata_props.add(key="trace", value=secret)
    model.graph.quantization_annotation.add(tensor_name=secret)

    assert secret.encode() not in strip(model).SerializeToString()
    assert export(models["plain"], tools.shape) == floats["plain"]


def test_a_contract_is_part_of_what_was_measured_and_outlives_a_stamp(float_file):
    contract = Contract(range="0..255")
    fed = with_contract(float_file, contract)
    stamped = stamp(fed, lineage(fed))

    assert graph_sha256(fed) != graph_sha256(float_file)
    assert contract_of(onnx.load_model_from_string(stamped)) == contract
    assert contract_of(onnx.load_model_from_string(unstamp(stamped))) == contract
    assert read_lineage(fed) is None
