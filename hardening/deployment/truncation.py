"""Casts to integers that are cast back to floats: a rounding, in other words."""

from dataclasses import replace

import torch
from torch import Tensor

from hardening.deployment.graph import Graph, Node
from hardening.deployment.operators.shape import DTYPES, cast
from hardening.deployment.operators.straight_through import pass_through


def truncations(graph: Graph) -> Graph:
    """The same graph whose Casts to integers pass gradients, where Casts to floats alone read them.

    Integers of torch carry no gradient: what is truncated stays float there.
    """
    other = {name for node in graph.nodes if not _to_float(node) for name in node.inputs}
    other.add(graph.output)
    nodes = tuple(
        replace(node, function=_truncate)
        if node.operator == "Cast" and not _to_float(node) and node.outputs[0] not in other
        else node
        for node in graph.nodes
    )
    return replace(graph, nodes=nodes)


def _to_float(node: Node) -> bool:
    if node.operator != "Cast":
        return False
    kind: torch.dtype | None = DTYPES.get(node.attributes["to"])
    return kind is not None and kind.is_floating_point


def _truncate(x: Tensor, *, to: int) -> Tensor:
    stepped = cast(x, to=to)
    return pass_through(x, stepped.to(x.dtype)) if x.is_floating_point() else stepped
