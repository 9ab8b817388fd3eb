import onnx
import pytest
import torch
from torch import nn

from hardening.deployment.export import export
from hardening.deployment.parity import prove
from hardening.deployment.session import Session
from hardening.deployment.storage import few_bit_integers, store_in_4_bits, store_in_float16
from hardening.deployment.trainable import Trainable
from hardening.deployment.twin import Twin
from hardening.errors import ModelError

NARROW = {"int4": store_in_4_bits, "float16": store_in_float16}
each = pytest.mark.parametrize("precision", NARROW)


@each
def test_the_twin_computes_what_the_session_does(precision, floats, name, tools):
    stored = NARROW[precision](floats[name])
    session, x = Session(stored), tools.pictures(100, seed=4)

    assert session.facts().precision == precision
    parity = prove(name, session, Twin(stored), torch.cat([x, tools.towards(Twin(stored), x)]))

    assert parity.max_difference < 1e-5 * parity.scale
    assert parity.agreement == 1.0


@each
def test_logits_stay_close_to_the_float_file_s(precision, floats, name, tools):
    x, limit = tools.pictures(100, seed=4), {"int4": 0.4, "float16": 0.002}[precision]
    exact = Session(floats[name])(x)

    distance = (Session(NARROW[precision](floats[name]))(x) - exact).abs().max()

    assert 0 < distance < limit * exact.abs().max()


@pytest.mark.parametrize(("precision", "share"), [("int4", 0.16), ("float16", 0.54)])
def test_the_file_shrinks(precision, share):
    float_file = export(nn.Sequential(nn.Flatten(), nn.Linear(768, 301)).eval(), (3, 16, 16))

    assert len(NARROW[precision](float_file)) < share * len(float_file)


def test_an_odd_number_of_4_bit_weights_is_padded_and_read_back():
    model = nn.Sequential(nn.Conv2d(3, 1, 3), nn.Flatten(), nn.Linear(196, 3))  # 27 weights first
    file = store_in_4_bits(export(model.eval(), (3, 16, 16)))
    x = torch.rand(5, 3, 16, 16)

    assert torch.allclose(Session(file)(x), Twin(file)(x), atol=1e-6)


def test_3_bits_have_7_values_take_no_less_room_than_4_and_stay_3_in_training(floats):
    four, three = (store_in_4_bits(floats["plain"], bits) for bits in (4, 3))

    def integers(file):
        stored = onnx.load_model_from_string(file).graph.initializer
        kept = [t for t in stored if t.data_type == onnx.TensorProto.INT4]
        return [onnx.numpy_helper.to_array(t).astype(int) for t in kept]

    trained = Trainable(three, floats["plain"])
    with torch.no_grad():
        for weight in trained.parameters():
            weight.mul_(1.3)

    assert {abs(w).max() for w in integers(four)} == {7}
    assert {abs(w).max() for w in integers(three)} == {3}
    assert {abs(w).max() for w in integers(trained.file())} == {3}
    assert len(three) == len(four)


@pytest.mark.parametrize("largest", [7, 3])
def test_few_bit_weights_have_a_scale_per_output_channel_and_err_by_half_a_step(largest):
    weight = torch.randn(5, 3, 3, 3, generator=torch.Generator().manual_seed(0)).numpy()
    weight[2] = 0

    for axis in (0, 1, -1):
        integers, scale = few_bit_integers(weight, axis, largest)
        assert scale.size == weight.shape[axis]
        assert abs(integers).max() == largest
        assert (abs(integers * scale - weight) <= 0.5001 * scale).all()


@each
def test_only_a_float32_file_is_stored_anew(precision, ints, floats):
    with pytest.raises(ModelError, match="is stored in int8 already"):
        NARROW[precision](ints["plain"])
    with pytest.raises(ModelError, match=f"is stored in {precision} already"):
        NARROW[precision](NARROW[precision](floats["plain"]))


def test_a_weight_that_float16_cannot_hold_is_refused(floats):
    proto = onnx.load_model_from_string(floats["plain"])
    tensor = next(t for t in proto.graph.initializer if len(t.dims) == 4)
    values = onnx.numpy_helper.to_array(tensor) * 1e9
    tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))

    with pytest.raises(ModelError, match=r"tensor '.*' is too large for float16"):
        store_in_float16(proto.SerializeToString())
