"""ONNX Runtime's own operators that quantized files hold, and what tells their shapes.

https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md
"""

from collections.abc import Callable
from typing import Any

from onnx import NodeProto, TensorProto, ValueInfoProto, helper

from hardening.errors import ModelError

DOMAIN = "com.microsoft"


def stand_ins(node: NodeProto, name: str) -> tuple[list[NodeProto], list[ValueInfoProto]]:
    """Standard operators whose output has the type and shape of `node`'s, and inputs they need.

    For shape inference, which knows nothing of this domain; they compute something else.

    Raises:
        ModelError: `node` lacks inputs or attributes, or works on channels last; `name` is the
            file's.
    """
    values = {entry.name: helper.get_attribute_value(entry) for entry in node.attribute}
    if values.pop("channels_last", 0):
        raise ModelError(f"{name}: operator {node.op_type} with channels last, expected NCHW")
    try:
        return CONTRIB[node.op_type](node, values)
    except (IndexError, KeyError, TypeError, ValueError) as error:
        raise ModelError(
            f"{name}: operator {node.op_type} lacks inputs or attributes that it must have"
        ) from error


StandIns = tuple[list[NodeProto], list[ValueInfoProto]]
Values = dict[str, Any]


def _one(operator: str, sources: list[str], node: NodeProto, values: Values) -> StandIns:
    return [helper.make_node(operator, sources, [node.output[0]], **values)], []


def _first(operator: str) -> Callable[[NodeProto, Values], StandIns]:
    return lambda node, values: _one(operator, [node.input[0]], node, values)


def _unchanged(node: NodeProto, _: Values) -> StandIns:
    return _one("Identity", [node.input[0]], node, {})


def _two(operator: str) -> Callable[[NodeProto, Values], StandIns]:
    return lambda node, values: _one(operator, [node.input[0], node.input[3]], node, values)


def _concat(node: NodeProto, values: Values) -> StandIns:
    return _one("Concat", list(node.input[2::3]), node, values)


def _gemm(node: NodeProto, values: Values) -> StandIns:
    """Floats come out where no zero point of the output goes in."""
    product = f"{node.output[0]}:product"
    gemm = helper.make_node("Gemm", [node.input[0], node.input[3]], [product], **values)
    if len(node.input) > 8 and node.input[8]:
        last = helper.make_node("Identity", [product], [node.output[0]])
    else:
        last = helper.make_node("Cast", [product], [node.output[0]], to=TensorProto.FLOAT)
    return [gemm, last], []


def _matmul(node: NodeProto, values: Values) -> StandIns:
    weight = f"{node.output[0]}:weight"
    shape = [values["K"], values["N"]]
    given = helper.make_tensor_value_info(weight, TensorProto.FLOAT, shape)
    nodes, _ = _one("MatMul", [node.input[0], weight], node, {})
    return nodes, [given]


CONTRIB: dict[str, Callable[[NodeProto, Values], StandIns]] = {
    "MatMulNBits": _matmul,
    "QGemm": _gemm,
    "QLinearAdd": _two("Add"),
    "QLinearAveragePool": _first("AveragePool"),
    "QLinearConcat": _concat,
    "QLinearGlobalAveragePool": _first("GlobalAveragePool"),
    "QLinearLeakyRelu": _unchanged,
    "QLinearMul": _two("Mul"),
    "QLinearSigmoid": _unchanged,
}
"""The only operators of that domain that are accepted, and what stands in for each."""
