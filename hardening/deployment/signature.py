"""What an ONNX file takes, and what it is called in errors.

Shapes: B images, C channels, H x W pixels.
"""

import hashlib

import onnx
from torch import Tensor

from hardening.errors import ModelError


def image_shape(model: onnx.ModelProto) -> tuple[int, ...]:
    """(C, H, W) of the input; 0 where the file leaves a size open."""
    shape = graph_input(model.graph).type.tensor_type.shape
    return tuple(size.dim_value for size in shape.dim[1:])


def graph_input(graph: onnx.GraphProto) -> onnx.ValueInfoProto:
    """The only input that is not a stored tensor."""
    stored = {tensor.name for tensor in graph.initializer}
    inputs: list[onnx.ValueInfoProto] = [v for v in graph.input if v.name not in stored]
    return inputs[0]


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
