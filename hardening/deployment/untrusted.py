"""The gate for ONNX bytes of unknown origin: what cannot be vouched for is refused."""

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx import TensorProto, numpy_helper

from hardening.deployment.contract import check_channels, contract_of
from hardening.deployment.contrib import CONTRIB, DOMAIN
from hardening.deployment.names import check_names
from hardening.deployment.shapes import infer, sizes_of
from hardening.deployment.signature import fixed_batch, graph_input, graph_output, image_shape
from hardening.deployment.sizes import check_activations
from hardening.deployment.tensors import check_tensor, kind_of
from hardening.errors import ModelError

MAX_BYTES = 512 << 20
MAX_NODES = 20_000

BATCH = 256
"""Images at a time for which sizes are checked, where the file leaves the number open: a tensor
that grows with its square is too large then."""

OLDEST_OPSET = 9
"""Before it BatchNormalization, Cast and Upsample were other operators."""

DOMAINS = frozenset({"", "ai.onnx"})

CONTROL_FLOW = frozenset({"If", "Loop", "Scan", "SequenceMap"})

NOT_NUMBERS = frozenset(
    {
        "ImageDecoder",
        "Optional",
        "OptionalGetElement",
        "OptionalHasElement",
        "RegexFullMatch",
        "StringConcat",
        "StringNormalizer",
        "StringSplit",
        "TfIdfVectorizer",
    }
)
"""Operators on texts, pictures in a file format, and what may be absent."""

RANDOM = frozenset(
    {
        "Bernoulli",
        "Multinomial",
        "RandomNormal",
        "RandomNormalLike",
        "RandomUniform",
        "RandomUniformLike",
    }
)


def read_model(data: bytes, name: str) -> onnx.ModelProto:
    """Parse ONNX `data` without executing, fetching or trusting any of it.

    Accepted is one self-contained graph of standard operators (and the quantized ones of
    `contrib`), deterministic, without control flow, that maps one float tensor (batch, C, H, W) to
    one (batch, K), and whose tensors are as large as they say and not absurdly so. A contract in
    it may say another layout, and which of several outputs counts: then the model comes without
    the other ones and what leads to them alone.

    Raises:
        ModelError: Anything else; the text starts with `name`.
    """
    model = parse(data, name)
    graph = model.graph
    if len(graph.node) > MAX_NODES:
        raise ModelError(f"{name}: got {len(graph.node)} nodes, expected at most {MAX_NODES}")
    if model.functions or model.training_info or graph.sparse_initializer:
        raise ModelError(f"{name}: functions, training info or sparse tensors are not accepted")
    check_names(model, name)
    _check_opset(model, name)
    for node in graph.node:
        _check_node(node, name)
    for tensor in graph.initializer:
        check_tensor(tensor, name)
    _check_structure(data, name)
    _check_dropouts(graph, name)
    _check_ends(model, name)
    batch = fixed_batch(model) or BATCH
    inferred = infer(model, name, batch)
    check_activations(inferred, name, batch)
    output = graph_output(model).name
    _check_output(next(v for v in inferred.graph.output if v.name == output), name, batch)
    return _narrowed(model, output)


def parse(data: bytes, name: str) -> onnx.ModelProto:
    """The message that `data` is, of which nothing is checked but that it has a graph.

    Raises:
        ModelError: It is too large, or none; the text starts with `name`.
    """
    if len(data) > MAX_BYTES:
        raise ModelError(f"{name}: got {len(data)} bytes, expected at most {MAX_BYTES}")
    try:
        model = onnx.load_model_from_string(data)
    except DecodeError as error:
        raise ModelError(f"{name}: not an ONNX file, or a truncated one") from error
    if not model.graph.node:
        raise ModelError(f"{name}: no ONNX graph in {len(data)} bytes")
    return model


def _check_opset(model: onnx.ModelProto, name: str) -> None:
    """One number, or readers could differ in which of several they take."""
    versions = [entry.version for entry in model.opset_import if entry.domain in DOMAINS]
    newest = onnx.defs.onnx_opset_version()
    if len(versions) != 1 or not OLDEST_OPSET <= versions[0] <= newest:
        raise ModelError(
            f"{name}: got ONNX opset {', '.join(map(str, versions)) or 'none'}, "
            f"expected one from {OLDEST_OPSET} to {newest}"
        )


def _check_node(node: onnx.NodeProto, name: str) -> None:
    operator = f"{node.domain}:{node.op_type}" if node.domain else node.op_type
    if node.domain not in DOMAINS and (node.domain != DOMAIN or node.op_type not in CONTRIB):
        raise ModelError(f"{name}: operator {operator}, expected only standard ONNX operators")
    if node.op_type in CONTROL_FLOW or any(_has_graph(entry) for entry in node.attribute):
        raise ModelError(f"{name}: operator {operator} holds a sub-graph, expected a plain graph")
    if node.op_type in RANDOM:
        raise ModelError(f"{name}: operator {operator} is random, expected a deterministic graph")
    if node.op_type in NOT_NUMBERS or "Sequence" in node.op_type:
        raise ModelError(f"{name}: operator {operator} works on other things than tensors")
    if any(entry.name == "training_mode" and entry.i for entry in node.attribute):
        raise ModelError(f"{name}: operator {operator} is in training mode, expected inference")
    for entry in node.attribute:
        for tensor in (*([entry.t] if entry.HasField("t") else []), *entry.tensors):
            check_tensor(tensor, name)


def _check_dropouts(graph: onnx.GraphProto, name: str) -> None:
    """The third input of a Dropout, when there is one, may switch it on."""
    stored = {tensor.name: tensor for tensor in graph.initializer}
    stored |= {n.output[0]: n.attribute[0].t for n in graph.node if n.op_type == "Constant"}
    for node in graph.node:
        if node.op_type != "Dropout" or not any(node.input[2:]):
            continue
        switch = stored.get(node.input[2])
        if switch is None or numpy_helper.to_array(switch).any():
            raise ModelError(f"{name}: operator Dropout is in training mode, expected inference")


def _has_graph(entry: onnx.AttributeProto) -> bool:
    return entry.HasField("g") or bool(entry.graphs) or entry.HasField("sparse_tensor")


def _check_structure(data: bytes, name: str) -> None:
    try:
        onnx.checker.check_model(data)
    except onnx.checker.ValidationError as error:
        reason = " ".join(str(error).split())[:300]
        raise ModelError(f"{name}: not a valid ONNX graph: {reason}") from error


def _check_ends(model: onnx.ModelProto, name: str) -> None:
    contract, graph = contract_of(model, name), model.graph
    stored = {tensor.name for tensor in graph.initializer}
    inputs = [value.name for value in graph.input if value.name not in stored]
    outputs = [value.name for value in graph.output]
    for what, names, wanted in (
        ("input", inputs, contract.input),
        ("output", outputs, contract.output),
    ):
        if wanted is not None and wanted not in names:
            raise ModelError(f"{name}: got {wanted!r} as model.{what}, expected one of {names}")
        if len(names) != 1 and (what == "input" or wanted is None):
            hint = "" if what == "input" or not names else ", or one of them as model.output"
            raise ModelError(f"{name}: got {what}s {names}, expected exactly one {what}{hint}")
        if stored & {*names}:
            raise ModelError(f"{name}: the {what} {names[0]!r} is a stored tensor")
    shape = "(batch, C, H, W)" if contract.layout == "NCHW" else "(batch, H, W, C)"
    _check_value(graph_input(graph), name, "input", 4, shape)
    check_channels(contract, image_shape(model)[0], name)


def _check_value(
    value: onnx.ValueInfoProto, name: str, what: str, rank: int, expected: str
) -> None:
    tensor = value.type.tensor_type
    sizes = [size.dim_value or size.dim_param or "?" for size in tensor.shape.dim]
    wrong = any(size.dim_value < 0 for size in tensor.shape.dim)
    if tensor.elem_type != TensorProto.FLOAT or len(sizes) != rank or wrong:
        kind = kind_of(tensor.elem_type)
        raise ModelError(f"{name}: {what} is {kind} {sizes}, expected FLOAT {expected}")


def _check_output(value: onnx.ValueInfoProto, name: str, batch: int) -> None:
    _check_value(value, name, "output", 2, "(batch, K)")
    sizes = sizes_of(value)
    if sizes is not None and sizes[0] != batch:
        raise ModelError(
            f"{name}: output is {sizes} for {batch} images, expected ({batch}, K): "
            "the file takes another number of images than it says"
        )


def _narrowed(model: onnx.ModelProto, output: str) -> onnx.ModelProto:
    """`model` with this output alone, in place: the nodes that do not lead to it are left out."""
    graph = model.graph
    if len(graph.output) == 1:
        return model
    wanted, kept = {output}, []
    for node in reversed(graph.node):
        if wanted & {*node.output}:
            kept.append(node)
            wanted |= {*node.input}
    outputs = [value for value in graph.output if value.name == output]
    del graph.node[:], graph.output[:]
    graph.node.extend(kept[::-1])
    graph.output.extend(outputs)
    return model
