"""ONNX Runtime's int8 kernels that look 256 results up, with the very table it would use."""

from collections.abc import Callable, Mapping
from functools import partial, reduce
from typing import Any

import numpy as np
import onnxruntime
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from hardening.deployment.integer import Grid
from hardening.deployment.operators.activation import ACTIVATIONS
from hardening.deployment.operators.straight_through import pass_through
from hardening.deployment.providers import CPU


def lookup(name: str, attributes: Mapping[str, Any], source: Grid, result: Grid) -> "Table":
    """QLinearSigmoid or QLinearLeakyRelu, by the `name` of the float operator."""
    # An approximation of ours would round differently here and there: the runtime is asked.
    kind = np.uint8 if source.low == 0 else np.int8
    stored = {
        "xs": source.step,
        "xz": kind(source.zero),
        "ys": result.step,
        "yz": kind(result.zero),
    }
    integers = np.arange(source.low, source.high + 1).astype(kind)
    node = helper.make_node(
        f"QLinear{name}", ["x", *stored], ["y"], domain="com.microsoft", **attributes
    )
    code = TensorProto.UINT8 if source.low == 0 else TensorProto.INT8
    graph = helper.make_graph(
        [node],
        name,
        [helper.make_tensor_value_info("x", code, [256])],
        [helper.make_tensor_value_info("y", code, [256])],
        [numpy_helper.from_array(np.asarray(value), key) for key, value in stored.items()],
    )
    opsets = [helper.make_opsetid("", 13), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=[CPU])
    (values,) = session.run(None, {"x": integers})
    function = partial(ACTIVATIONS[name], **attributes)
    return Table(function, torch.from_numpy(values).float(), source, result)


class Table(nn.Module):
    """A function of one integer; its gradient is that of the float function."""

    def __init__(
        self, function: Callable[[Tensor], Tensor], values: Tensor, source: Grid, result: Grid
    ) -> None:
        super().__init__()
        self.function, self.source, self.result = function, source, result
        self.register_buffer("values", values, persistent=False)

    values: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """Integers in, integers out."""
        found = self.values[(x.detach() - self.source.low).long()]
        if not x.requires_grad:
            return found
        smooth = self.function((x - self.source.zero) * float(self.source.step))
        return pass_through(self.result.nearest(smooth / float(self.result.step)), found)


class Softmax(nn.Module):
    """QLinearSoftmax over the last axis: exponentials from a table, float32 sums in turn."""

    def __init__(self, source: Grid, result: Grid) -> None:
        super().__init__()
        self.source, self.result = source, result
        self.levels = float(np.floor(np.float32(1) / result.step))
        powers = (torch.arange(256) - 255).double() * float(source.step)
        # The runtime's largest exponential.
        values = (0x7FFFFF * powers.exp()).float()
        self.register_buffer("values", values, persistent=False)

    values: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """Integers in, integers out."""
        below = x.detach() - x.detach().amax(-1, keepdim=True)
        parts = self.values[(below + 255).long()]
        total = reduce(torch.add, parts.unbind(-1)).unsqueeze(-1)
        shares = (parts * self.levels / total).round() + self.result.zero
        found = shares.clamp(max=self.result.high)
        if not x.requires_grad:
            return found
        smooth = ((x - self.source.zero) * float(self.source.step)).softmax(-1)
        return pass_through(self.result.nearest(smooth / float(self.result.step)), found)
