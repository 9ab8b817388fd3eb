"""The order of computation of a twin: one step for each node or integer kernel."""

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor, nn

from hardening.deployment.fusion import find_kernel
from hardening.deployment.graph import Graph, Node
from hardening.deployment.native import find_native
from hardening.deployment.wiring import Wiring


class Step(nn.Module):
    """One computation, from named inputs ("" for none) to named outputs."""

    def __init__(
        self, compute: Callable[..., Any], inputs: tuple[str, ...], outputs: tuple[str, ...]
    ) -> None:
        super().__init__()
        self.compute, self.inputs, self.outputs = compute, inputs, outputs

    def forward(self, *inputs: Tensor | None) -> tuple[Tensor, ...]:
        """Values of `outputs`."""
        result = self.compute(*inputs)
        return (result,) if isinstance(result, Tensor) else tuple(result)


def plan(graph: Graph) -> list[Step]:
    """The steps that lead to the output of `graph`, in order."""
    wiring = Wiring(graph)
    kernels = {
        node: found
        for node in graph.nodes
        if (found := find_native(node, wiring) or find_kernel(node, wiring))
    }
    absorbed = {node for kernel in kernels.values() for node in kernel.absorbed}
    steps = []
    for node in graph.nodes:
        if node in kernels:
            kernel = kernels[node]
            steps.append(Step(kernel.compute, kernel.inputs, (kernel.output,)))
        elif node not in absorbed:
            steps.append(_step(node))
    return _without_unread(steps, graph.output)


def _step(node: Node) -> Step:
    compute = partial(node.function, **node.attributes)
    return Step(compute, node.inputs, node.outputs)


def _without_unread(steps: list[Step], output: str) -> list[Step]:
    wanted, kept = {output}, []
    for step in reversed(steps):
        if wanted & {*step.outputs}:
            kept.append(step)
            wanted |= {*step.inputs}
    return kept[::-1]


def last_uses(steps: list[Step], graph: Graph) -> list[tuple[str, ...]]:
    """For each step, the names that no later step reads: their memory is free after it."""
    later, finished = {graph.output, *graph.constants, ""}, []
    for step in reversed(steps):
        names = {*step.inputs, *step.outputs} - later
        finished.append(tuple(sorted(names)))
        later |= names
    return finished[::-1]
