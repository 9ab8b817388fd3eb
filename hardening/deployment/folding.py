"""Arithmetic on sizes: integers that a graph computes from its shapes before it needs them.

Exporters write `x.view(len(x), -1)` as Shape, Gather, Concat and Reshape. Once the input's size is
known, all of it is constant. Every operator here computes what ONNX Runtime computes, or says
nothing: only integers, and of division only what rounds alike everywhere.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

SMALL = 1 << 10
"""Elements of the largest operand and of the largest result."""

Integers = NDArray[np.int64]
Values = Mapping[str, Any]


def fold(
    node: onnx.NodeProto, known: Mapping[str, Integers], shape: Callable[[str], list[int] | None]
) -> Integers | None:
    """The integers that `node` computes, if it is arithmetic on `known` ones.

    Args:
        node: An operator with valid inputs.
        known: Integers by name.
        shape: The sizes of a tensor, None where one is not known.
    """
    attributes = {entry.name: helper.get_attribute_value(entry) for entry in node.attribute}
    if node.op_type == "Shape":
        sizes = shape(node.input[0])
        span = slice(attributes.get("start", 0), attributes.get("end"))
        return None if sizes is None else np.array(sizes, np.int64)[span]
    inputs = [known.get(key) for key in node.input if key]
    compute = FOLDS.get(node.op_type)
    present = [x for x in inputs if x is not None]
    if compute is None or len(present) != len(node.input) or sum(x.size for x in present) > SMALL:
        return None
    try:
        with np.errstate(all="ignore"):  # integers wrap around, in ONNX Runtime too
            result = compute(present, attributes)
    except (ArithmeticError, LookupError, TypeError, ValueError, np.exceptions.AxisError):
        return None  # not arithmetic that we understand: its size stays unknown
    return result if result is None or result.size <= SMALL else None


def _cast(inputs: list[Integers], values: Values) -> Integers | None:
    return inputs[0] if values["to"] == onnx.TensorProto.INT64 else None


def _concat(inputs: list[Integers], values: Values) -> Integers:
    return np.concatenate(inputs, values["axis"])


def _divide(inputs: list[Integers], _: Values) -> Integers | None:
    first, second = inputs
    return first // second if (first >= 0).all() and (second > 0).all() else None


def _remainder(inputs: list[Integers], _: Values) -> Integers | None:
    first, second = inputs
    return first % second if (first >= 0).all() and (second > 0).all() else None


def _expand(inputs: list[Integers], _: Values) -> Integers | None:
    data, shape = inputs
    if np.prod(shape.astype(float)) * data.size > SMALL:
        return None
    return data * np.ones(shape, np.int64)


def _filled(inputs: list[Integers], values: Values) -> Integers | None:
    value = values.get("value")
    fill = onnx.numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else None
    if fill is None or fill.dtype != np.int64 or np.prod(inputs[0].astype(float)) > SMALL:
        return None
    return np.full(inputs[0], fill.reshape(()), np.int64)


def _gather(inputs: list[Integers], values: Values) -> Integers:
    return np.take(inputs[0], inputs[1], axis=values.get("axis", 0))


def _range(inputs: list[Integers], _: Values) -> Integers | None:
    start, limit, step = (int(x.reshape(())) for x in inputs)
    return np.arange(start, limit, step) if abs(limit - start) <= SMALL and step else None


def _slice(inputs: list[Integers], values: Values) -> Integers:
    data, *given = inputs
    names = ("starts", "ends", "axes", "steps")
    parts = [*given, *(values.get(name) for name in names[len(given) :])]
    starts, ends = (np.ravel(np.asarray(part)) for part in parts[:2])
    axes = range(len(starts)) if parts[2] is None else np.ravel(np.asarray(parts[2]))
    steps = [1] * len(starts) if parts[3] is None else np.ravel(np.asarray(parts[3]))
    spans = [slice(None)] * data.ndim
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        spans[axis] = slice(int(start), int(end), int(step))
    return data[tuple(spans)]


def _squeeze(inputs: list[Integers], values: Values) -> Integers:
    axes = np.ravel(inputs[1]) if len(inputs) > 1 else values.get("axes")
    return np.squeeze(inputs[0], None if axes is None else tuple(int(a) for a in axes))


def _unsqueeze(inputs: list[Integers], values: Values) -> Integers:
    axes = np.ravel(inputs[1]) if len(inputs) > 1 else values["axes"]
    return np.expand_dims(inputs[0], tuple(int(axis) for axis in axes))


FOLDS: dict[str, Callable[[list[Integers], Values], Integers | None]] = {
    "Add": lambda inputs, _: inputs[0] + inputs[1],
    "Cast": _cast,
    "Concat": _concat,
    "ConstantOfShape": _filled,
    "Div": _divide,
    "Equal": lambda inputs, _: (inputs[0] == inputs[1]).astype(np.int64),
    "Expand": _expand,
    "Gather": _gather,
    "Identity": lambda inputs, _: inputs[0],
    "Mod": _remainder,
    "Mul": lambda inputs, _: inputs[0] * inputs[1],
    "Range": _range,
    "Reshape": lambda inputs, _: inputs[0].reshape(inputs[1]),
    "Slice": _slice,
    "Squeeze": _squeeze,
    "Sub": lambda inputs, _: inputs[0] - inputs[1],
    "Transpose": lambda inputs, values: np.transpose(inputs[0], values.get("perm")),
    "Unsqueeze": _unsqueeze,
    "Where": lambda inputs, _: np.where(inputs[0] != 0, inputs[1], inputs[2]),
}
