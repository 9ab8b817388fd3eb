"""A preprocessing of images put in front of an ONNX file, in the same graph.

Shapes: B images, C channels, H x W pixels.
"""

import onnx
import torch
from onnx import compose
from torch import Tensor, nn

from hardening.deployment.contract import Contract, contract_of, images_of, prepare
from hardening.deployment.export import to_onnx
from hardening.deployment.signature import check_images, graph_input, image_shape, name_of
from hardening.deployment.untrusted import DOMAINS, read_model
from hardening.errors import ModelError

FRONT_OPSET = 11
"""The first that rounds. What a preprocessing consists of means the same in all that followed."""

LATER = {"Cast": "saturate", "Reshape": "allowzero"}
"""Attributes that operators have got since then, of no use here."""


def put_in_front(module: nn.Module, data: bytes, shape: tuple[int, int, int]) -> bytes:
    """ONNX bytes that compute what the file `data` makes of the images that `module` makes.

    The file keeps its contract: what it is fed is turned into images, and these, changed, into
    what it would have been fed. So it takes the place of the one that the user has.

    Args:
        module: Maps images (B, C, H, W) in [0, 1] to such images.
        shape: (C, H, W) of one image.

    Raises:
        ModelError: The file is refused, does not take images of this shape, or has an operator set
            in which what `module` does cannot be said.
    """
    name = name_of(data)
    model = read_model(data, name)
    opset = next(entry.version for entry in model.opset_import if entry.domain in DOMAINS)
    if opset < FRONT_OPSET:
        raise ModelError(
            f"{name}: got ONNX opset {opset}, expected at least {FRONT_OPSET} to put a "
            "preprocessing in front: export it again"
        )
    contract, fed = contract_of(model, name), graph_input(model.graph)
    images = torch.zeros(2, *shape)
    check_images(images, image_shape(model), name)
    example = prepare(images, contract)
    front = to_onnx(_Fed(module, contract).eval(), example, ("input", "output"))
    _join(front.graph, model.graph, fed.name)
    for dimension, size in zip(fed.type.tensor_type.shape.dim[1:], example.shape[1:], strict=True):
        dimension.dim_value = size  # the preprocessing was written for images of this size
    joined = bytes(model.SerializeToString(deterministic=True))
    read_model(joined, f"{name}, behind {type(module).__name__}")
    return joined


class _Fed(nn.Module):
    """What a file is fed of images, to what it is fed of the images that `module` makes."""

    def __init__(self, module: nn.Module, contract: Contract) -> None:
        super().__init__()
        self.module, self.contract = module, contract

    def forward(self, x: Tensor) -> Tensor:
        return prepare(self.module(images_of(x, self.contract)), self.contract)


def _join(front: onnx.GraphProto, graph: onnx.GraphProto, fed: str) -> None:
    """Put the nodes of `front` between the input `fed` of `graph` and all that reads it."""
    taken = {name for node in graph.node for name in (*node.input, *node.output)}
    prefix = "front_"
    while any(name.startswith(prefix) for name in taken):
        prefix = f"{prefix}front_"
    renamed = compose.add_prefix_graph(front, prefix)
    first, last = renamed.input[0].name, renamed.output[0].name
    for node in renamed.node:
        kept = [entry for entry in node.attribute if entry.name != LATER.get(node.op_type)]
        del node.attribute[:]
        node.attribute.extend(kept)
        node.input[:] = [fed if name == first else name for name in node.input]
    for node in graph.node:
        node.input[:] = [last if name == fed else name for name in node.input]
    nodes = [*renamed.node, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    graph.initializer.extend(renamed.initializer)
