import logging
import tempfile
from collections import Counter

import onnx
import pytest
import torch

from hardening.deployment.parity import compare
from hardening.deployment.quantize import quantize_int8
from hardening.deployment.session import Session
from hardening.deployment.twin import Twin
from hardening.errors import ModelError

METHODS = ["minmax", "entropy", "percentile"]


@pytest.mark.parametrize("method", METHODS)
def test_logits_stay_close_to_the_float_file_s_and_are_not_on_a_grid(floats, tools, method):
    data = floats["residual"]
    int8 = quantize_int8(data, tools.pictures(64), method=method)
    x = tools.pictures(100, seed=4)
    exact = Session(data)(x)

    parity = compare(exact, Session(int8)(x))

    assert 0 < parity.max_difference < 0.15 * parity.scale
    assert parity.agreement > 0.85
    assert len(Session(int8)(x).unique()) > 256, "logits were quantized"
    assert torch.equal(Session(int8)(x), Twin(int8)(x))


def test_the_output_is_made_by_the_last_layer_itself(ints):
    proto = onnx.load_model_from_string(ints["plain"])
    last = next(node for node in proto.graph.node if "logits" in node.output)

    assert last.op_type == "Gemm"
    used = {name for node in proto.graph.node for name in node.input}
    assert {tensor.name for tensor in proto.graph.initializer} <= used


def test_weights_are_signed_per_channel_and_activations_unsigned(ints):
    proto = onnx.load_model_from_string(ints["residual"])
    kinds = Counter(tensor.data_type for tensor in proto.graph.initializer if len(tensor.dims) == 4)
    points = {
        tensor.name: tensor.data_type
        for tensor in proto.graph.initializer
        if tensor.name in {n.input[2] for n in proto.graph.node if n.op_type == "QuantizeLinear"}
    }

    assert kinds == {onnx.TensorProto.INT8: 9}
    assert set(points.values()) == {onnx.TensorProto.UINT8}
    stem = next(t for t in proto.graph.initializer if t.name == "stem.weight_scale")
    assert list(stem.dims) == [8]


def test_one_scale_per_tensor_on_request(floats, tools):
    int8 = quantize_int8(floats["plain"], tools.pictures(16), per_channel=False)
    scales = [
        tensor
        for tensor in onnx.load_model_from_string(int8).graph.initializer
        if tensor.name.endswith("weight_scale")
    ]

    assert {tuple(tensor.dims) for tensor in scales} <= {(), (1,)}
    assert torch.equal(Session(int8)(tools.pictures(9)), Twin(int8)(tools.pictures(9)))


@pytest.mark.parametrize("method", METHODS)
def test_the_same_images_give_the_same_bytes(floats, tools, method):
    first, second = (
        quantize_int8(floats["plain"], tools.pictures(70), method=method) for _ in range(2)
    )

    assert first == second


@pytest.mark.parametrize("method", METHODS)
def test_nothing_is_printed_logged_or_left_behind(
    floats, tools, capfd, caplog, tmp_path, monkeypatch, method
):
    handlers = list(logging.getLogger().handlers)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    with caplog.at_level(logging.INFO):
        quantize_int8(floats["plain"], tools.pictures(8), method=method)

    assert capfd.readouterr() == ("", "")
    assert caplog.records == []
    assert logging.getLogger().handlers == handlers
    assert list(tmp_path.iterdir()) == []


def test_the_file_is_smaller_and_says_only_what_it_computes(floats, ints):
    assert len(ints["residual"]) < len(floats["residual"])
    proto = onnx.load_model_from_string(ints["residual"])
    assert list(proto.metadata_props) == []
    assert [entry.domain for entry in proto.opset_import] == [""]
    assert b"/" + tempfile.gettempdir().strip("/").encode() + b"/" not in ints["residual"]


def test_a_quantized_file_is_not_quantized_again(ints, tools):
    with pytest.raises(ModelError, match="is quantized already"):
        quantize_int8(ints["plain"], tools.pictures(4))


def test_calibration_images_of_another_shape_are_refused(floats):
    with pytest.raises(ModelError, match=r"got images of shape \(4, 1, 16, 16\)"):
        quantize_int8(floats["plain"], torch.rand(4, 1, 16, 16))
