"""Signed activations as ONNX Runtime holds them on x86-64: unsigned where only one node reads them.

Its int8 kernels want bytes from 0 on there, so it moves a QuantizeLinear and the only
DequantizeLinear behind it by 128 (its "QDQ S8 to U8 transformer"). What several nodes read stays
signed, and is then computed with in float32.
"""

import platform
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from hardening.deployment.graph import Graph, Node

SHIFT = 128

MOVES = platform.machine() in {"x86_64", "AMD64"}
"""Elsewhere its int8 kernels take signed bytes as well."""


def unsigned(graph: Graph) -> Graph:
    """The same graph with such pairs moved; nothing changes but the integers between them."""
    if not MOVES:
        return graph
    readers: dict[str, list[Node]] = {}
    for node in graph.nodes:
        for name in node.inputs:
            readers.setdefault(name, []).append(node)
    constants = {**graph.constants}
    changed: dict[Node, Node] = {}
    for node in graph.nodes:
        pair = _pair(node, readers, constants)
        if pair is None:
            continue
        for member in pair:
            name = f"{member.inputs[2]}:unsigned"
            constants[name] = (constants[member.inputs[2]].int() + SHIFT).to(torch.uint8)
            changed[member] = replace(member, inputs=(*member.inputs[:2], name))
    nodes = tuple(changed.get(node, node) for node in graph.nodes)
    return replace(graph, nodes=nodes, constants=constants)


def _pair(
    node: Node, readers: dict[str, list[Node]], constants: Mapping[str, Tensor]
) -> tuple[Node, Node] | None:
    """A QuantizeLinear and the only DequantizeLinear that reads it, for one reader, in int8."""
    if node.operator != "QuantizeLinear" or len(readers.get(node.outputs[0], ())) != 1:
        return None
    after = readers[node.outputs[0]][0]
    if after.operator != "DequantizeLinear" or len(readers.get(after.outputs[0], ())) > 1:
        return None
    grids = [
        [constants[name] for name in part.inputs[1:] if name in constants] for part in (node, after)
    ]
    if any(len(grid) != 2 or grid[0].numel() != 1 for grid in grids):
        return None
    (scale, point), (scale_after, point_after) = grids
    signed = point.dtype == point_after.dtype == torch.int8
    alike = signed and scale.item() == scale_after.item() and point.item() == point_after.item()
    return (node, after) if alike else None
