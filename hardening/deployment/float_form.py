"""The float form of an int8 file: its weights as float32, its activations not rounded."""

import onnx
from onnx import numpy_helper

from hardening.deployment.contract import ROUNDING, SQUASHING, UNCHANGING
from hardening.deployment.export import strip
from hardening.deployment.float_graph import FloatGraph
from hardening.deployment.float_operators import rewrite
from hardening.deployment.graph import read_graph
from hardening.deployment.session import Session
from hardening.deployment.signature import graph_input, name_of
from hardening.deployment.untrusted import read_model
from hardening.errors import ModelError, NoFloatForm

PASSED = SQUASHING | UNCHANGING | ROUNDING
"""Operators between the layer that makes the logits and the output."""


def float_form(data: bytes) -> bytes:
    """Float ONNX bytes that compute what an int8 file would if it did not round activations.

    For a file whose float parent nobody knows this is the nearest thing to it: the same graph,
    its stored weights as the numbers they stand for. Values still end where the file's integers
    end, half a step outside the last one, because quantizers leave out a Relu or a Clip that the
    range implies; only the logits go on. Its gradients are those of a float file, without a
    straight-through rule. A file in float is given back in another wording.

    Raises:
        ModelError: The bytes are refused by `read_model`.
        NoFloatForm: An operator works on integers in a way that has no float counterpart here.
    """
    name = name_of(data)
    model = read_model(data, name)
    try:
        form = FloatGraph(read_graph(model), model, _of_the_logits(model.graph))
        rewrite(form, model.graph)
        made = _assembled(model, form)
        Session(made)  # it runs: attacks are judged by it where the two are compared
    except (RuntimeError, LookupError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())[:300].removeprefix(f"{name}: ")
        raise NoFloatForm(f"{name}: no float form of it: {reason}") from error
    return made


def _of_the_logits(graph: onnx.GraphProto) -> frozenset[str]:
    """Names under which the logits run to the output: saturated ones would have no order."""
    makers = {name: node for node in graph.node for name in node.output}
    names, name = [graph.output[0].name], graph.output[0].name
    while name in makers and makers[name].op_type in PASSED:
        name = makers[name].input[0]
        names.append(name)
    return frozenset(names)


def _assembled(model: onnx.ModelProto, form: FloatGraph) -> bytes:
    """Checked bytes of the new nodes between the old ends."""
    made = onnx.ModelProto()
    made.CopyFrom(model)
    graph = made.graph
    read = {name for node in form.nodes for name in node.input} & {*form.constants}
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    del graph.node[:], graph.initializer[:], graph.value_info[:], graph.input[:]
    graph.input.append(graph_input(model.graph))
    graph.node.extend(form.nodes)
    graph.initializer.extend(
        stored.get(name) or numpy_helper.from_array(form.constants[name].numpy(), name)
        for name in sorted(read)
    )
    data = bytes(strip(made).SerializeToString(deterministic=True))
    if any(node.op_type == "QuantizeLinear" for node in graph.node):
        raise ModelError("operator QuantizeLinear is left in it")
    read_model(data, "float form")
    return data
