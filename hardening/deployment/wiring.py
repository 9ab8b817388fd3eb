"""Who makes and who reads each tensor of a graph, and which of them stand for integers."""

from collections import defaultdict
from typing import NamedTuple

from hardening.deployment.graph import Graph, Node
from hardening.deployment.integer import Grid
from hardening.deployment.operators.quantization import origin


class Quantized(NamedTuple):
    """An input that is dequantized: the integers' name, their meaning, the axis of the scales."""

    name: str
    grid: Grid
    axis: int


class Ending(NamedTuple):
    """What follows an operator: a QuantizeLinear, perhaps behind a Relu that its grid implies."""

    grid: Grid
    output: str
    absorbed: tuple[Node, ...]

    @property
    def relu(self) -> bool:
        """Whether there is one."""
        return len(self.absorbed) > 1


class Wiring:
    """Who makes and who reads each tensor of a graph."""

    def __init__(self, graph: Graph) -> None:
        self.constants, self.narrow = graph.constants, graph.narrow
        self.output = graph.output
        nodes = (*graph.folded, *graph.nodes)
        self.makers = {name: node for node in nodes for name in node.outputs}
        self.readers: dict[str, list[Node]] = defaultdict(list)
        for node in graph.nodes:
            for name in node.inputs:
                self.readers[name].append(node)

    def grid(self, scale_name: str, point_name: str = "") -> Grid | None:
        """The integers of a scale and a zero point; None unless constant, with a single one."""
        scale = self.constants.get(scale_name)
        point = self.constants.get(point_name)
        if scale is None or (point_name and point is None):
            return None
        zeros, (low, high) = origin(scale, point)
        zero = float(zeros.reshape(-1)[0])
        return Grid(scale, zero, low, high) if bool((zeros == zero).all()) else None

    def quantized(self, name: str) -> Quantized | None:
        """The integers behind `name`, if a DequantizeLinear makes it."""
        node = self.makers.get(name)
        if node is None or node.operator != "DequantizeLinear" or node.inputs[0] in self.narrow:
            return None
        if node.attributes.get("block_size", 0):
            return None
        grid = self.grid(*node.inputs[1:])
        axis = node.attributes.get("axis", 1)
        return None if grid is None else Quantized(node.inputs[0], grid, axis)

    def activation(self, name: str) -> Quantized | None:
        """The same for 8 bits with one scale: an activation, or a constant in its place."""
        found = self.quantized(name)
        return found if found is not None and _is_byte(found.grid) else None

    def ending(self, node: Node) -> Ending | None:
        """The QuantizeLinear that alone reads `node`, directly or through a Relu."""
        first = self._only_reader(node)
        last = self._only_reader(first) if first and first.operator == "Relu" else first
        if first is None or last is None or last.operator != "QuantizeLinear":
            return None
        grid = self.grid(*last.inputs[1:])
        if grid is None or not _is_byte(grid):
            return None
        return Ending(grid, last.outputs[0], (last,) if first is last else (first, last))

    def _only_reader(self, node: Node) -> Node | None:
        readers = self.readers[node.outputs[0]]
        return readers[0] if len(readers) == 1 and node.outputs[0] != self.output else None


def _is_byte(grid: Grid) -> bool:
    return grid.scale.numel() == 1 and grid.high - grid.low == 255
