"""Static int8 quantization of an exported graph.

Shapes: N images, C channels, H x W pixels.
"""

import tempfile
from pathlib import Path
from typing import Any, Literal

import onnx
from onnx import version_converter
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_static,
)
from onnxruntime.quantization.shape_inference import quant_pre_process
from torch import Tensor

from hardening.deployment.contract import (
    contract_of,
    last_squashing,
    prepare,
    with_contract,
)
from hardening.deployment.export import strip
from hardening.deployment.quiet import quiet
from hardening.deployment.signature import (
    check_images,
    fixed_batch,
    graph_input,
    graph_output,
    image_shape,
    name_of,
)
from hardening.deployment.untrusted import DOMAINS, read_model
from hardening.errors import ModelError

PER_CHANNEL_OPSET = 13
"""The oldest operator set whose DequantizeLinear takes a scale for each channel."""

Method = Literal["minmax", "entropy", "percentile"]

METHODS: dict[Method, CalibrationMethod] = {
    "minmax": CalibrationMethod.MinMax,
    "entropy": CalibrationMethod.Entropy,
    "percentile": CalibrationMethod.Percentile,
}


class _Reader(CalibrationDataReader):  # type: ignore[misc]
    """Hands the calibration images (N, C, H, W) to ONNX Runtime as the file wants them.

    One at a time, or as many as it takes: its histograms refuse batches of different sizes, as the
    last one would often be.
    """

    def __init__(self, images: Tensor, model: onnx.ModelProto) -> None:
        self.name = graph_input(model.graph).name
        batch = fixed_batch(model) or 1
        whole = images[: max(len(images) // batch, 1) * batch].detach().cpu().float()
        self.parts = iter(prepare(whole, contract_of(model)).split(batch))

    def get_next(self) -> dict[str, Any] | None:
        part = next(self.parts, None)
        return None if part is None else {self.name: part.numpy()}


def quantize_int8(
    data: bytes, calibration: Tensor, *, method: Method = "minmax", per_channel: bool = True
) -> bytes:
    """int8 ONNX bytes (QDQ) of a float ONNX file: unsigned activations, signed weights.

    Logits stay float: the last layer sums in integers and gives float32. ONNX Runtime's quantizer
    would put them on a grid of 256 values cut off at the largest calibrated one: margins tie and
    saturate, which misleads attacks that follow scores and hides how confident the file is. With
    that gone nothing is won by keeping the last layer's weights in float as well, so there is no
    option for it.

    Args:
        calibration: Images (N, C, H, W) in [0, 1] whose activations set the ranges.
        method: How a range is chosen from the activations seen; `minmax` clips nothing seen.
        per_channel: One weight scale per output channel; closer to float, no slower.

    Raises:
        ModelError: The bytes are refused, quantized already, or do not take these images.
    """
    name = name_of(data)
    model = read_model(data, name)
    if any("Quantize" in node.op_type or "QLinear" in node.op_type for node in model.graph.node):
        raise ModelError(f"{name}: is quantized already, expected a float graph")
    check_images(calibration, image_shape(model), name)
    folded = fold(data)
    with tempfile.TemporaryDirectory(prefix="quantize-") as folder, quiet():
        # Paths, not a model in memory: given that, the quantizer empties the caller's tensors.
        given, quantized = (Path(folder, f"{step}.onnx") for step in "01")
        given.write_bytes(folded)
        quantize_static(
            given,
            quantized,
            _Reader(calibration, model),
            quant_format=QuantFormat.QDQ,
            per_channel=per_channel,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=METHODS[method],
        )
        result = onnx.load(quantized)
    _in_float(result.graph, graph_output(model).name)
    quantized_data = bytes(strip(result).SerializeToString(deterministic=True))
    quantized_data = with_contract(quantized_data, contract_of(model), name)
    read_model(quantized_data, f"{name}, quantized")
    return quantized_data


def fold(data: bytes) -> bytes:
    """The same float graph as quantization wants it: normalisation folded into weights, say."""
    with tempfile.TemporaryDirectory(prefix="quantize-") as folder, quiet():
        given, prepared = (Path(folder, f"{step}.onnx") for step in "01")
        given.write_bytes(_recent(data))
        quant_pre_process(given, prepared, skip_symbolic_shape=True)
        return with_contract(
            prepared.read_bytes(), contract_of(onnx.load_model_from_string(data)), name_of(data)
        )


def _recent(data: bytes) -> bytes:
    """The file in an operator set that has quantization per channel."""
    model = onnx.load_model_from_string(data)
    opset = max(entry.version for entry in model.opset_import if entry.domain in DOMAINS)
    if opset >= PER_CHANNEL_OPSET:
        return data
    return bytes(version_converter.convert_version(model, PER_CHANNEL_OPSET).SerializeToString())


def _in_float(graph: onnx.GraphProto, output: str) -> None:
    """Remove, in place, QuantizeLinear and DequantizeLinear before the output and its softmax."""
    _unquantized(graph, output)
    squashing = last_squashing(graph, output)
    if squashing is not None:
        _unquantized(graph, squashing.input[0])


def _unquantized(graph: onnx.GraphProto, tensor: str) -> None:
    makers = {name: node for node in graph.node for name in node.output}
    last = makers[tensor]
    if last.op_type != "DequantizeLinear":
        return
    before = makers[last.input[0]]
    source = makers[before.input[0]]
    source.output[list(source.output).index(before.input[0])] = tensor
    graph.node.remove(last)
    graph.node.remove(before)
    gone = {before.input[0], before.output[0], tensor}
    used = {name for node in graph.node for name in node.input}
    values = [value for value in graph.value_info if value.name not in gone]
    tensors = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.value_info[:], graph.initializer[:]
    graph.value_info.extend(values)
    graph.initializer.extend(tensors)
