"""What an ONNX file takes, and what it is called in errors.

Shapes: B images, C channels, H x W pixels.
"""

import hashlib
from collections.abc import Callable, Iterator

import onnx
import torch
from torch import Tensor

from hardening.deployment.contract import KEY, contract_of
from hardening.errors import ModelError


def image_shape(model: onnx.ModelProto) -> tuple[int, ...]:
    """(C, H, W) of one image, whatever the file's layout; 0 where it leaves a size open."""
    shape = graph_input(model.graph).type.tensor_type.shape
    sizes = tuple(size.dim_value for size in shape.dim[1:])
    return (sizes[2], *sizes[:2]) if contract_of(model).layout == "NHWC" else sizes


def graph_input(graph: onnx.GraphProto) -> onnx.ValueInfoProto:
    """The only input that is not a stored tensor."""
    stored = {tensor.name for tensor in graph.initializer}
    inputs: list[onnx.ValueInfoProto] = [v for v in graph.input if v.name not in stored]
    return inputs[0]


def graph_output(model: onnx.ModelProto) -> onnx.ValueInfoProto:
    """The output that the file's contract names, or its first one."""
    outputs: dict[str, onnx.ValueInfoProto] = {value.name: value for value in model.graph.output}
    return outputs[contract_of(model).output or model.graph.output[0].name]


def fixed_batch(model: onnx.ModelProto) -> int:
    """How many images the file takes at a time; 0 where it takes any number."""
    return int(graph_input(model.graph).type.tensor_type.shape.dim[0].dim_value)


def graph_sha256(data: bytes) -> str:
    """sha256 of a file without the model's metadata, for bytes of ours or that passed the gate.

    All that computes is in it, and the contract, which says what is computed from an image: so it
    tells a file from every other one that answers something else, and stays what it is when a
    lineage is written into the file.
    """
    model = onnx.load_model_from_string(data)
    contract = [entry for entry in model.metadata_props if entry.key == KEY]
    del model.metadata_props[:]
    model.metadata_props.extend(contract)
    return hashlib.sha256(model.SerializeToString(deterministic=True)).hexdigest()


def name_of(data: bytes) -> str:
    """What errors call a file of which only the bytes are known."""
    return f"ONNX file {hashlib.sha256(data).hexdigest()[:12]}"


def check_images(x: Tensor, shape: tuple[int, ...], name: str) -> None:
    """Refuse images that the file does not take; a size of 0 in `shape` is open.

    Raises:
        ModelError: The shapes differ, or there is no image.
    """
    fits = x.dim() == 4 and all(
        want in (0, got) for want, got in zip(shape, x.shape[1:], strict=True)
    )
    if not fits or not len(x):
        expected = f"(B, {', '.join(str(size or '?') for size in shape)})"
        raise ModelError(f"{name}: got images of shape {tuple(x.shape)}, expected {expected}")


def in_batches(run: Callable[[Tensor], Tensor], x: Tensor, batch: int) -> Tensor:
    """Logits of images `x` by a `run` that takes exactly `batch` of them; black ones fill up."""
    return torch.cat([run(part) for part in filled(x, batch)])[: len(x)]


def filled(x: Tensor, batch: int) -> Iterator[Tensor]:
    """Images `x` (N, C, H, W) in parts of `batch`, black ones at the end of the last part."""
    for part in x.split(batch):
        missing = batch - len(part)
        yield torch.cat([part, part.new_zeros(missing, *x.shape[1:])]) if missing else part
