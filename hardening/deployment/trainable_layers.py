"""Layers of a file whose weights can be trained: where they lie, and how they are rounded.

Shapes: O output channels.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from hardening.deployment.integer import WeightedSum
from hardening.deployment.operators.straight_through import quantize
from hardening.deployment.storage import LARGEST, OUTPUT_AXIS
from hardening.deployment.twin import Twin

BIAS_LIMIT = 2.0**30
"""Steps of an int32 bias that leave room for the sum it is added to."""


class Steps(NamedTuple):
    """A weight stored as `integers` up to `largest` (names of tensors), one `scale` an output.

    `axis` is that of the outputs, None for one scale in all.
    """

    integers: str
    scale: str
    largest: int
    axis: int | None


class Bias(NamedTuple):
    """A bias as the layer reads it; `integers` and `scale` are "" where it is stored in float."""

    name: str
    integers: str
    scale: str
    values: np.ndarray


class Found(NamedTuple):
    """A layer: the names it reads, its weights in float, and what may carry its result.

    `weight` is None where they are stored in float.
    """

    weight_name: str
    weight: Steps | None
    values: np.ndarray
    bias: Bias | None
    results: frozenset[str]
    alpha: float


class IntegerLayer(nn.Module):
    """A layer that ONNX Runtime computes with integers: int8 weights, int32 bias."""

    def __init__(self, found: Found, place: str, kernel: WeightedSum) -> None:
        """Train the layer that the twin computes by its `kernel` at `place`."""
        super().__init__()
        assert found.weight is not None
        self.steps, self.bias_steps, self.place = found.weight, found.bias, place
        self.alpha, self.source, self.result = found.alpha, kernel.source, kernel.result
        self.dtype, self.shape = kernel.weight.dtype, kernel.factor.shape
        self.weight = nn.Parameter(torch.from_numpy(found.values.copy()))
        self.bias = nn.Parameter(torch.from_numpy(found.bias.values.copy())) if found.bias else None

    def in_the_twin(self) -> dict[str, Tensor]:
        """What stands for the kernel's buffers in a pass."""
        integers, scale, bias, _ = self._rounded()
        values = {
            f"{self.place}.weight": integers.to(self.dtype),
            f"{self.place}.factor": self._factor(scale),
        }
        return values if bias is None else values | {f"{self.place}.bias": bias.to(self.dtype)}

    def in_the_file(self) -> dict[str, Tensor]:
        """The tensors of the file by name."""
        integers, scale, bias, bias_scale = self._rounded()
        values = {self.steps.integers: integers, self.steps.scale: scale}
        if bias is None or self.bias_steps is None:
            return values
        return values | {self.bias_steps.integers: bias, self.bias_steps.scale: bias_scale}

    def in_the_parent(self) -> dict[str, Tensor]:
        """The tensors of the float parent by name."""
        values: dict[str, Tensor] = {_parent_name(self.steps.integers): self.weight}
        if self.bias is None or self.bias_steps is None:
            return values
        return values | {_parent_name(self.bias_steps.integers): self.bias}

    def _rounded(self) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
        """Integers and scale of the weight, then of the bias, whose scale is that of the sums."""
        scale, source = _scale(self.weight, self.steps), self.source.scale.reshape(())
        if self.bias is not None:
            # Else the bias of a channel with hardly any weight would not fit its 32 bits.
            least = self.bias.detach().abs() / (BIAS_LIMIT * source)
            least = least.max() if self.steps.axis is None else least
            scale = torch.maximum(scale, least.reshape(scale.shape))
        limit = self.steps.largest
        integers = quantize(self.weight / scale, -limit, limit, rectifies=False)
        sums = source * scale.reshape(-1)
        if self.bias is None:
            return integers, scale, None, sums
        bias = quantize(self.bias / sums, -(2.0**31), 2.0**31 - 1, rectifies=False)
        return integers, scale, bias, sums

    def _factor(self, scale: Tensor) -> Tensor:
        """From sums to steps of the result, multiplied in ONNX Runtime's order."""
        source = self.source.scale.reshape(())
        source = source if self.alpha == 1 else torch.tensor(self.alpha) * source
        factor = source * scale.reshape(-1)
        if self.result is not None:
            factor = factor / self.result.scale.reshape(())
        return factor.reshape(self.shape)


class FloatLayer(nn.Module):
    """A layer that is computed in float, its weights stored in float or in a few bits."""

    def __init__(self, found: Found, twin: Twin) -> None:
        """Train the layer whose weights are constants of `twin`."""
        super().__init__()
        self.name, self.steps = found.weight_name, found.weight
        self.place = twin.buffer_of(found.weight_name)
        self.weight = nn.Parameter(torch.from_numpy(found.values.copy()))
        # A bias in integers beside a weight computed in float is left as it is.
        trained = found.bias if found.bias and not found.bias.integers else None
        self.bias_name = trained.name if trained else ""
        self.bias_place = twin.buffer_of(trained.name) if trained else ""
        self.bias = nn.Parameter(torch.from_numpy(trained.values.copy())) if trained else None

    def in_the_twin(self) -> dict[str, Tensor]:
        """What stands for the twin's buffers in a pass."""
        integers, scale = self._rounded()
        values = {self.place: integers if scale is None else integers * scale}
        return values if self.bias is None else values | {self.bias_place: self.bias}

    def in_the_file(self) -> dict[str, Tensor]:
        """The tensors of the file by name."""
        integers, scale = self._rounded()
        values = {self.name: integers}
        if self.steps is not None and scale is not None:
            values = {self.steps.integers: integers, self.steps.scale: scale}
        return values if self.bias is None else values | {self.bias_name: self.bias}

    def in_the_parent(self) -> dict[str, Tensor]:
        """The tensors of the float parent by name."""
        name = self.name if self.steps is None else _parent_name(self.steps.integers)
        values: dict[str, Tensor] = {name: self.weight}
        return values if self.bias is None else values | {self.bias_name: self.bias}

    def _rounded(self) -> tuple[Tensor, Tensor | None]:
        if self.steps is None:
            return self.weight, None
        scale, limit = _scale(self.weight, self.steps), self.steps.largest
        return quantize(self.weight / scale, -limit, limit, rectifies=False), scale


def find_weights(model: onnx.ModelProto, floats: Mapping[str, np.ndarray]) -> Iterator[Found]:
    """The layers of a file with weights of their own.

    Args:
        floats: Tensors of the file it was quantized from, by name.
    """
    graph = model.graph
    tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    makers = {name: node for node in graph.node for name in node.output}
    readers = Counter(name for node in graph.node for name in node.input)
    for node in graph.node:
        if node.op_type not in OUTPUT_AXIS or readers[node.input[1]] > 1:
            continue
        name = node.input[1]
        steps = _steps(name, makers, tensors)
        if steps is not None:
            values = _master(steps, tensors, floats)
        elif name in tensors:
            values = tensors[name]
        else:
            continue
        bias = _bias(node.input[2], makers, tensors) if any(node.input[2:]) else None
        yield Found(name, steps, values, bias, _carriers(graph, node), _alpha(node))


def _steps(
    name: str, makers: Mapping[str, onnx.NodeProto], tensors: Mapping[str, np.ndarray]
) -> Steps | None:
    """How the weight `name` is stored, if in integers with 0 for zero."""
    node = makers.get(name)
    if node is None or node.op_type not in {"DequantizeLinear", "Mul"}:
        return None
    if not all(read in tensors for read in node.input[1:]):
        return None
    scale = tensors[node.input[1]]
    if node.op_type == "DequantizeLinear" and node.input[0] in tensors:
        return _int8_steps(node, tensors)
    cast = makers.get(node.input[0])
    if node.op_type != "Mul" or cast is None or cast.input[0] not in tensors:
        return None
    axes = [axis for axis, size in enumerate(scale.shape) if size > 1]
    # The largest weight of an output is at the last step: the integers tell how many there are.
    last = int(np.abs(tensors[cast.input[0]].astype(np.int8)).max(initial=0)) or LARGEST[4]
    return Steps(cast.input[0], node.input[1], min(last, LARGEST[4]), axes[0] if axes else None)


def _int8_steps(node: onnx.NodeProto, tensors: Mapping[str, np.ndarray]) -> Steps | None:
    """Of int8 with 0 for zero and one scale an output; others cannot be written back as trained."""
    stored, scale = tensors[node.input[0]], tensors[node.input[1]]
    attributes = {entry.name: entry.i for entry in node.attribute}
    shifted = any((tensors[zero] != 0).any() for zero in node.input[2:])
    if shifted or attributes.get("block_size") or stored.dtype != np.int8:
        return None
    axis = attributes.get("axis", 1) % stored.ndim
    return Steps(node.input[0], node.input[1], 127, axis if scale.size > 1 else None)


def _master(
    steps: Steps, tensors: Mapping[str, np.ndarray], floats: Mapping[str, np.ndarray]
) -> np.ndarray:
    """The float weight that was rounded, where it is known to be that one, else the rounded."""
    integers = tensors[steps.integers].astype(np.float32)
    scale = tensors[steps.scale]
    if steps.axis is not None:
        scale = scale.reshape([-1 if i == steps.axis else 1 for i in range(integers.ndim)])
    rounded: np.ndarray = integers * scale
    known = floats.get(_parent_name(steps.integers))
    if known is None or known.shape != rounded.shape:
        return rounded
    return known if bool((np.abs(known - rounded) <= 0.51 * scale).all()) else rounded


def _bias(
    name: str, makers: Mapping[str, onnx.NodeProto], tensors: Mapping[str, np.ndarray]
) -> Bias | None:
    if name in tensors:
        return Bias(name, "", "", tensors[name])
    node = makers.get(name)
    if node is None or node.op_type != "DequantizeLinear" or node.input[0] not in tensors:
        return None
    scale = tensors[node.input[1]]
    values = (tensors[node.input[0]] * scale.astype(np.float64)).astype(np.float32)
    return Bias(name, node.input[0], node.input[1], values)


def _carriers(graph: onnx.GraphProto, node: onnx.NodeProto) -> frozenset[str]:
    """What a kernel for `node` may write: its result, or that of a Relu or rounding behind it."""
    names = {*node.output}
    for _ in range(2):
        behind = [n for n in graph.node if n.op_type in {"Relu", "QuantizeLinear"}]
        names |= {name for n in behind if names & {*n.input[:1]} for name in n.output}
    return frozenset(names)


def _alpha(node: onnx.NodeProto) -> float:
    return next((entry.f for entry in node.attribute if entry.name == "alpha"), 1.0)


def _scale(weight: Tensor, steps: Steps) -> Tensor:
    """Scales that broadcast with `weight`: its largest value, or that of each output, in steps."""
    axes = [axis for axis in range(weight.dim()) if axis != steps.axis]
    largest = weight.detach().abs().amax(axes, keepdim=True)
    return (largest / steps.largest).clamp(min=torch.finfo(torch.float32).tiny)


def _parent_name(integers: str) -> str:
    """What a tensor of integers is called in the float file: quantizers only add an ending."""
    return integers.removesuffix("_quantized").removesuffix("_integers")
