"""Shapes of everything a graph computes, inferred from its operators and not from its claims."""

import math
from collections.abc import Iterable

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from hardening.deployment.contrib import CONTRIB, DOMAIN, stand_ins
from hardening.deployment.folding import SMALL, Integers, fold
from hardening.deployment.signature import fixed_batch, graph_input
from hardening.errors import ModelError

PASSES = 16
"""Most rounds of inferring shapes and computing sizes from them."""


def infer(model: onnx.ModelProto, name: str, batch: int) -> onnx.ModelProto:
    """`model` with a batch of `batch` images and the shapes that follow from it.

    What the file says of its intermediate results and of the output's shape is left out; sizes
    that it computes from shapes become constants. Large tensors come without their data, so that
    a file of any size is looked through quickly.

    Raises:
        ModelError: The operators contradict themselves, each other, or the declared output.
    """
    bare = _bare(model, name)
    bare.graph.input[0].type.tensor_type.shape.dim[0].dim_value = batch
    for _ in range(PASSES):
        try:
            inferred = onnx.shape_inference.infer_shapes(bare, strict_mode=True, data_prop=True)
        except onnx.shape_inference.InferenceError as error:
            reason = " ".join(str(error).split())[:300]
            raise ModelError(
                f"{name}: not a valid ONNX graph at a batch of {batch}: {reason}"
            ) from error
        if not _fold_all(bare.graph, inferred.graph):
            break
    return inferred


def batch_of(model: onnx.ModelProto, name: str) -> int:
    """How many images the operators take at a time; 0 where any number, whatever the file says."""
    fixed = fixed_batch(model)
    return 0 if fixed and serves(model, name, fixed + 1) else fixed


def serves(model: onnx.ModelProto, name: str, batch: int) -> bool:
    """Whether the operators take `batch` images, whatever number the file says."""
    try:
        sizes = sizes_of(infer(model, name, batch).graph.output[0])
    except ModelError:
        return False
    return sizes is not None and sizes[0] == batch


def sizes_of(value: onnx.ValueInfoProto) -> list[int] | None:
    """The sizes of an inferred value; None where one of them is not a number."""
    tensor = value.type.tensor_type
    if not tensor.HasField("shape"):
        return None
    sizes = [size.dim_value for size in tensor.shape.dim if size.HasField("dim_value")]
    return sizes if len(sizes) == len(tensor.shape.dim) else None


def _bare(model: onnx.ModelProto, name: str) -> onnx.ModelProto:
    graph = model.graph
    nodes, extra = [], []
    for node in graph.node:
        if node.domain == DOMAIN and node.op_type in CONTRIB:
            made, given = stand_ins(node, name)
            nodes += made
            extra += given
        else:
            nodes.append(node)
    outputs = [
        helper.make_tensor_value_info(value.name, value.type.tensor_type.elem_type, None)
        for value in graph.output
    ]
    tensors = [(tensor, math.prod(tensor.dims) > SMALL) for tensor in graph.initializer]
    large = [
        helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))
        for tensor, is_large in tensors
        if is_large
    ]
    made = helper.make_graph(
        nodes,
        "shapes",
        [graph_input(graph), *large, *extra],
        outputs,
        [tensor for tensor, is_large in tensors if not is_large],
    )
    return helper.make_model(made, opset_imports=model.opset_import, ir_version=10)


def _fold_all(graph: onnx.GraphProto, inferred: onnx.GraphProto) -> bool:
    """Replace, in `graph`, what computes sizes by the sizes; whether there was anything new."""
    shapes = {v.name: sizes_of(v) for v in (*inferred.value_info, *inferred.output, *graph.input)}
    shapes |= {tensor.name: list(tensor.dims) for tensor in graph.initializer}
    known = dict(_integers(graph))
    before, outputs = len(graph.node), {value.name for value in graph.output}
    kept = []
    for node in graph.node:
        result = fold(node, known, shapes.get)
        if result is None or node.output[0] in outputs:
            kept.append(node)
            continue
        known[node.output[0]] = result
        graph.initializer.append(numpy_helper.from_array(_typed(node, result), node.output[0]))
    del graph.node[:]
    graph.node.extend(kept)
    return len(kept) < before


def _integers(graph: onnx.GraphProto) -> Iterable[tuple[str, Integers]]:
    """int64 tensors that are stored, small, and as they are."""
    for tensor in graph.initializer:
        if tensor.data_type == TensorProto.INT64:
            yield tensor.name, numpy_helper.to_array(tensor)
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            value = node.attribute[0].t
            if value.data_type == TensorProto.INT64 and math.prod(value.dims) <= SMALL:
                yield node.output[0], numpy_helper.to_array(value)


def _typed(node: onnx.NodeProto, result: Integers) -> np.ndarray:
    return result.astype(bool) if node.op_type == "Equal" else result.astype(np.int64)
