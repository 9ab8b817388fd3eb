"""A float graph in the making, beside the int8 graph whose place it takes."""

from collections.abc import Callable, Sequence
from typing import Any

import onnx
import torch
from onnx import helper
from torch import Tensor

from hardening.deployment.graph import Graph, Node
from hardening.deployment.integer import Grid
from hardening.deployment.operators.quantization import KINDS, along, origin
from hardening.deployment.untrusted import DOMAINS
from hardening.errors import ModelError

CLIP_BY_INPUTS = 11
"""The first operator set whose Clip has its limits among its inputs."""

MAX_GROWTH = 8
"""Bytes of float constants for each byte of the file: what float32 takes for 4 bits. Only stored
tensors that many operators read in as many ways would take more."""


class FloatGraph:
    """Nodes and constants so far. A name that stood for integers stands for what they mean.

    Invariant: `grids` has the name of every tensor of the int8 graph that holds integers which
    depend on the image, and the grid on which they were written.
    """

    def __init__(self, graph: Graph, model: onnx.ModelProto, unbounded: frozenset[str]) -> None:
        """Begin with the constants of `graph`, read from `model`.

        Args:
            unbounded: Tensors whose values do not end where their integers would.
        """
        self.graph, self.unbounded = graph, unbounded
        self.constants: dict[str, Tensor] = {**graph.constants}
        self.grids: dict[str, Grid] = {}
        self.nodes: list[onnx.NodeProto] = []
        self.opset = max(entry.version for entry in model.opset_import if entry.domain in DOMAINS)
        self._made: dict[tuple[object, ...], str] = {}
        self._left = MAX_GROWTH * model.ByteSize()
        self._taken = {name for node in model.graph.node for name in (*node.input, *node.output)}

    def add(self, operator: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        """One more node; returns `output`."""
        self.nodes.append(helper.make_node(operator, inputs, [output], output, **attributes))
        return output

    def store(self, name: str, value: Tensor) -> str:
        """One more float constant; returns its name.

        Raises:
            ModelError: It is one too many for a file of this size.
        """
        self.constants[self.fresh(name)] = value.float().contiguous()
        self._left -= self.constants[name].nbytes
        if self._left < 0:
            raise ModelError(f"in floats its tensors are more than {MAX_GROWTH} times as large")
        return name

    def store_once(self, name: str, source: Sequence[object], make: Callable[[], Tensor]) -> str:
        """The float constant that `make` makes, one for all who read the same; returns its name.

        Args:
            name: What it is called if it is new.
            source: What tells it from all others: names of stored tensors, and how they are read.
        """
        key = tuple(source)
        if key not in self._made:
            self._made[key] = self.store(name, make())
        return self._made[key]

    def fresh(self, name: str) -> str:
        """`name`, which must be new.

        Raises:
            ModelError: The file calls something so.
        """
        if name in self._taken:
            raise ModelError(f"got a tensor {name!r}, expected the name to be free")
        self._taken.add(name)
        return name

    def grid(self, node: Node, place: int) -> Grid:
        """The grid whose scale and zero point are the inputs of `node` from `place` on.

        Raises:
            ModelError: They are computed, or there are several zero points.
        """
        scale, point = (*node.inputs[place : place + 2], "", "")[:2]
        kind = KINDS.get(node.attributes.get("output_dtype", 0))
        if scale not in self.constants or (point and point not in self.constants):
            raise ModelError(f"operator {node.operator} with a computed scale or zero point")
        zero = self.constants[point] if point else None
        if zero is None and kind is not None:
            zero = torch.zeros((), dtype=kind)
        zeros, (low, high) = origin(self.constants[scale], zero)
        first = float(zeros.reshape(-1)[0])
        if bool((zeros != first).any()) or node.attributes.get("block_size", 0):
            raise ModelError(f"operator {node.operator} with several zero points, or blocks")
        return Grid(self.constants[scale], first, low, high)

    def operand(self, node: Node, place: int, axis: int = 0) -> str:
        """The floats that the integers at `place` mean; their scale and zero point follow there.

        Args:
            axis: Of stored integers, the one along which scales count.
        """
        name, grid = node.inputs[place], self.grid(node, place + 1)
        if name not in self.constants:
            return self.read(name, grid)

        def values() -> Tensor:
            steps = self.constants[name].double() - grid.zero
            return steps * along(grid.scale.double(), axis, steps)

        source = ("values", *node.inputs[place : place + 3], axis)
        return self.store_once(f"{node.outputs[0]}:float:{place}", source, values)

    def read(self, name: str, grid: Grid) -> str:
        """`name`, whose integers are read as `grid` says.

        Raises:
            ModelError: That is not how they were written.
        """
        written = self.grids.get(name)
        if written is None:
            raise ModelError(f"tensor {name!r} holds integers that nobody quantized")
        if written.zero != grid.zero or not torch.equal(
            written.scale.reshape(-1), grid.scale.reshape(-1)
        ):
            raise ModelError(f"tensor {name!r} is read on another grid than it was written on")
        return name

    def write(self, source: str, name: str, grid: Grid) -> None:
        """Let `name` have the values of `source`, ended where the integers of `grid` end.

        A value ends half a step outside the last integer, for up to there nothing saturates, but
        at zero where the grid begins with it: that stands for a Relu.

        Raises:
            ModelError: The grid has several scales.
        """
        self.grids[name] = grid
        if name in self.unbounded:
            self.add("Identity", [source], name)
            return
        if grid.scale.numel() != 1:
            raise ModelError(f"tensor {name!r} has {grid.scale.numel()} scales, expected one")
        step = float(grid.step)
        low = 0.0 if grid.zero == grid.low else (grid.low - grid.zero - 0.5) * step
        high = (grid.high - grid.zero + 0.5) * step
        if self.opset < CLIP_BY_INPUTS:
            self.add("Clip", [source], name, min=low, max=high)
            return
        ends = [
            self.store(f"{name}:float:{side}", torch.tensor(end))
            for side, end in (("low", low), ("high", high))
        ]
        self.add("Clip", [source, *ends], name)
