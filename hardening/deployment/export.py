"""From a module to the bytes that ship: one self-contained ONNX file.

Shapes: B images, C channels, H x W pixels, K classes.
"""

import inspect
from copy import deepcopy

import onnx
import torch
from torch import Tensor, nn

from hardening.deployment.contract import KEY
from hardening.deployment.quiet import quiet
from hardening.deployment.twin import Twin
from hardening.deployment.untrusted import DOMAINS, read_model
from hardening.errors import ModelError

EXPORT_OPSET = 20


def export(model: nn.Module, shape: tuple[int, int, int]) -> bytes:
    """ONNX bytes of `model`: float32 `input` (batch, C, H, W) to `logits` (batch, K), free batch.

    The same model gives the same bytes, in any process; they hold no path, no source line and no
    date. A `Twin` is exported as the bytes it was made from.

    Args:
        shape: (C, H, W) of one image.

    Raises:
        ModelError: The model is in training mode, wraps a twin, or cannot be exported.
    """
    if isinstance(model, Twin):
        return model.data
    _check_exportable(model)
    proto = to_onnx(model, torch.zeros(2, *shape), ("input", "logits"))
    data = bytes(proto.SerializeToString(deterministic=True))
    read_model(data, type(model).__name__)
    return data


def to_onnx(module: nn.Module, example: Tensor, ends: tuple[str, str]) -> onnx.ModelProto:
    """`module`, in eval mode, as a graph for any number of inputs like those of `example`.

    Args:
        example: Two inputs or more.
        ends: Names of the input and the output.

    Raises:
        ModelError: There is no such graph.
    """
    first = next(iter(inspect.signature(module.forward).parameters))
    with quiet():
        program = torch.onnx.export(
            deepcopy(module).cpu(),
            (example,),
            dynamo=True,
            opset_version=EXPORT_OPSET,
            external_data=False,
            input_names=[ends[0]],
            output_names=[ends[1]],
            dynamic_shapes={first: {0: torch.export.Dim("batch")}},
            verbose=False,
        )
    if program is None:
        raise ModelError(f"{type(module).__name__}: the exporter returned no program")
    return strip(program.model_proto)


def strip(model: onnx.ModelProto) -> onnx.ModelProto:
    """Remove, in place, what does not compute: metadata, texts, operator sets nobody uses.

    A contract stays: it says how to compute.

    Exporters leave absolute source paths and source lines there.
    """
    graph = model.graph
    contract = [entry for entry in model.metadata_props if entry.key == KEY]
    for part in (model, graph, *graph.node, *graph.initializer, *_values(graph)):
        del part.metadata_props[:]
        part.doc_string = ""
    for entry in (entry for node in graph.node for entry in node.attribute):
        entry.ClearField("doc_string")
        if entry.HasField("t"):
            entry.t.ClearField("doc_string")
    del graph.quantization_annotation[:]
    model.metadata_props.extend(contract)
    domains = {node.domain for node in graph.node}
    if domains & DOMAINS:
        domains |= DOMAINS  # two spellings of one
    used = [entry for entry in model.opset_import if entry.domain in domains]
    del model.opset_import[:]
    model.opset_import.extend(used)
    return model


def _values(graph: onnx.GraphProto) -> list[onnx.ValueInfoProto]:
    return [*graph.value_info, *graph.input, *graph.output]


def _check_exportable(model: nn.Module) -> None:
    for name, module in model.named_modules():
        where = f"{type(model).__name__}{'.' if name else ''}{name}"
        if module.training:
            raise ModelError(f"{where} is in training mode, expected eval() before the export")
        if isinstance(module, Twin):
            raise ModelError(f"{where} is a twin of an ONNX file inside another model")
