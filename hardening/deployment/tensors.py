"""Stored tensors of an ONNX file: as large as they say, inside the file, numbers."""

import math

import numpy as np
from onnx import TensorProto, numpy_helper

from hardening.errors import ModelError

MAX_ELEMENTS = 1 << 28
"""Elements of one stored tensor."""

MAX_RANK = 16

BITS: dict[int, int] = {
    TensorProto.FLOAT: 32,
    TensorProto.UINT8: 8,
    TensorProto.INT8: 8,
    TensorProto.UINT16: 16,
    TensorProto.INT16: 16,
    TensorProto.INT32: 32,
    TensorProto.INT64: 64,
    TensorProto.BOOL: 8,
    TensorProto.FLOAT16: 16,
    TensorProto.BFLOAT16: 16,
    TensorProto.DOUBLE: 64,
    TensorProto.UINT4: 4,
    TensorProto.INT4: 4,
}
"""Bits of one element, for the types a tensor may have."""

FLOATS = frozenset(
    {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE}
)

NAMES: dict[int, str] = {number: name for name, number in TensorProto.DataType.items()}


def kind_of(data_type: int) -> str:
    """What ONNX calls an element type; its number if it is none of ONNX's."""
    return NAMES.get(data_type, str(data_type))


def check_tensor(tensor: TensorProto, name: str) -> None:
    """Refuse a stored tensor that is not what it says.

    Raises:
        ModelError: It lies in another file, is no tensor of numbers, holds more or fewer elements
            than its shape has, or one that no computation of a classifier survives.
    """
    where = f"{name}: tensor {tensor.name!r}"
    if tensor.data_location == TensorProto.EXTERNAL or tensor.external_data:
        raise ModelError(f"{where} points to another file, expected its data inside")
    if tensor.data_type not in BITS:
        raise ModelError(f"{where} is of type {kind_of(tensor.data_type)}, expected numbers")
    # Multiplying very many sizes takes quadratic time: the rank comes first.
    if len(tensor.dims) > MAX_RANK:
        raise ModelError(f"{where} has {len(tensor.dims)} dimensions, expected at most {MAX_RANK}")
    if any(size < 0 for size in tensor.dims) or math.prod(tensor.dims) > MAX_ELEMENTS:
        raise ModelError(
            f"{where} has shape {list(tensor.dims)}, expected at most {MAX_ELEMENTS} elements"
        )
    expected, got = math.prod(tensor.dims), _stored(tensor)
    if BITS[tensor.data_type] == 4:
        expected += expected % 2  # two share a byte, the last one may be alone in it
    if got != expected:
        raise ModelError(f"{where} has shape {list(tensor.dims)} but holds {got:g} elements")
    if tensor.data_type in FLOATS and np.isnan(numpy_helper.to_array(tensor)).any():
        raise ModelError(f"{where} holds values that are not numbers (NaN)")
    if tensor.data_type == TensorProto.BOOL and set(tensor.raw_data) - {0, 1}:
        raise ModelError(f"{where} is BOOL and holds bytes other than 0 and 1")


def _stored(tensor: TensorProto) -> float:
    """Number of elements that are really in the file."""
    bits = BITS[tensor.data_type]
    if tensor.HasField("raw_data"):
        return len(tensor.raw_data) * 8 / bits
    typed = (tensor.float_data, tensor.int32_data, tensor.int64_data, tensor.double_data)
    return sum(len(field) for field in typed) * (2 if bits == 4 else 1)
