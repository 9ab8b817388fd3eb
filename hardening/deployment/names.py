"""Texts of an ONNX file that reach errors, logs and pages: short, printable, not too many."""

from collections.abc import Iterable, Iterator

import onnx

from hardening.errors import ModelError

MAX_NAME = 1024
"""Characters of one name."""

MAX_NAMES = 1 << 18

MAX_ATTRIBUTE = 1 << 16
"""Numbers in one attribute, bytes of its text."""

MAX_NUMBER = 1 << 31
"""Largest integer of an attribute: products of larger ones overflow in those who read them."""

UNBOUNDED = frozenset({"Constant", "Slice"})
"""Operators whose integers may be larger: the end of a slice is often the largest there is."""


def check_names(model: onnx.ModelProto, name: str) -> None:
    """Refuse names and attributes that no exporter writes.

    Raises:
        ModelError: A name is not text, very long or not printable, there are very many, or an
            attribute is very long or holds an absurd number. The text holds nothing of them raw.
    """
    for count, text in enumerate(_names(model)):
        if count >= MAX_NAMES:
            raise ModelError(f"{name}: got more than {MAX_NAMES} names, expected fewer")
        if not isinstance(text, str):
            raise ModelError(f"{name}: a name is not text: {text[:40]!r}, expected UTF-8")
        if len(text) > MAX_NAME or not text.isprintable():
            raise ModelError(
                f"{name}: got a name of {len(text)} characters, {text[:40]!r}, "
                f"expected at most {MAX_NAME} printable ones"
            )
    for node in model.graph.node:
        for entry in node.attribute:
            _check_attribute(node, entry, name)


def _names(model: onnx.ModelProto) -> Iterator[str | bytes]:
    graph = model.graph
    yield from (graph.name, model.producer_name, model.producer_version, model.domain)
    for opset in model.opset_import:
        yield opset.domain
    for value in (*graph.input, *graph.output, *graph.value_info):
        yield value.name
        yield from (size.dim_param for size in value.type.tensor_type.shape.dim)
    yield from (tensor.name for tensor in graph.initializer)
    for node in graph.node:
        yield from (node.name, node.op_type, node.domain, *node.input, *node.output)
        for entry in node.attribute:
            yield from (entry.name, entry.ref_attr_name, entry.t.name)


def _check_attribute(node: onnx.NodeProto, entry: onnx.AttributeProto, name: str) -> None:
    where = f"{name}: attribute {entry.name!r} of operator {node.op_type}"
    longest = max(map(len, (entry.ints, entry.floats, entry.strings, entry.tensors, entry.s)))
    longest = max((longest, *map(len, entry.strings)))
    if longest > MAX_ATTRIBUTE:
        raise ModelError(f"{where} has {longest} parts, expected at most {MAX_ATTRIBUTE}")
    if node.op_type not in UNBOUNDED and _extreme([entry.i, *entry.ints]) > MAX_NUMBER:
        raise ModelError(
            f"{where} is {_extreme([entry.i, *entry.ints])}, expected at most {MAX_NUMBER}"
        )


def _extreme(numbers: Iterable[int]) -> int:
    return max(map(abs, numbers))
