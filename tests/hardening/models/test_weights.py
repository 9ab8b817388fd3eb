import io
import pickle

import pytest
import torch
from safetensors.torch import save as save_tensors

from hardening.errors import ModelError
from hardening.models.architecture import Architecture, build
from hardening.models.weights import load_weights, read_state


@pytest.fixture
def model():
    architecture = Architecture(
        name="small_cnn", params={"width": 2}, shape=(1, 8, 8), classes=3, mean=(0.5,), std=(0.5,)
    )
    return build(architecture, seed=0)


def zipped(content):
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def other(model):
    return {k: v + 1 for k, v in model.net.state_dict().items()}


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


@pytest.mark.parametrize("write", [zipped, save_tensors], ids=["torch", "safetensors"])
def test_both_formats_are_read_bit_for_bit(model, write):
    state = other(model)

    assert same(read_state(write(state), "w"), state)


@pytest.mark.parametrize("wrapper", ["state_dict", "model", "model_state_dict"])
def test_the_state_dict_of_a_checkpoint_is_unwrapped(model, wrapper):
    state = other(model)

    assert same(read_state(zipped({"epoch": 3, wrapper: state, "rate": 0.1}), "w"), state)


def test_the_prefix_of_data_parallel_training_is_removed(model):
    state = other(model)
    prefixed = {f"module.{key}": value for key, value in state.items()}

    assert same(read_state(zipped({"state_dict": prefixed}), "w"), state)


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.mark.parametrize("write", [zipped, pickle.dumps], ids=["torch", "bare pickle"])
def test_a_pickle_with_code_in_it_is_refused_by_name_and_never_executed(tmp_path, write):
    target = tmp_path / "executed"

    with pytest.raises(ModelError, match=r"^evil.pt: .*code is never run"):
        read_state(write({"weight": torch.ones(2), "bomb": Bomb(target)}), "evil.pt")

    assert not target.exists()


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.98])
@pytest.mark.parametrize("write", [zipped, save_tensors], ids=["torch", "safetensors"])
def test_a_truncated_file_is_refused_by_name(model, write, share):
    data = write(other(model))

    with pytest.raises(ModelError, match=r"^cut\.pt: ") as caught:
        read_state(data[: int(share * len(data))], "cut.pt")

    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("data", [b"<html>not found</html>", b"\0" * 64, bytes(range(256))])
def test_bytes_that_are_no_weights_are_refused_by_name(data):
    with pytest.raises(ModelError, match=r"^page: "):
        read_state(data, "page")


@pytest.mark.parametrize("content", [{}, [torch.ones(1)], {"a": 1.5}, {3: torch.ones(1)}], ids=str)
def test_a_file_without_named_tensors_is_refused(content):
    with pytest.raises(ModelError, match=r"^w: got .*expected .*tensors"):
        read_state(zipped(content), "w")


def test_weights_go_into_a_new_model_and_the_given_one_stays(model):
    before = {k: v.clone() for k, v in model.net.state_dict().items()}

    loaded = load_weights(model, other(model), "w")

    assert same(loaded.net.state_dict(), other(model))
    assert same(model.net.state_dict(), before)


def test_counters_that_old_files_lack_are_not_missed(model):
    state = {k: v for k, v in other(model).items() if "num_batches_tracked" not in k}

    assert torch.equal(load_weights(model, state, "w").net[0].weight, state["0.weight"])


def test_at_most_three_missing_and_unexpected_keys_are_named(model):
    state = {f"extra.{i}": torch.ones(1) for i in range(5)}

    with pytest.raises(ModelError) as caught:
        load_weights(model, state, "w.pt")

    text = str(caught.value)
    assert text.startswith("w.pt: weights do not fit small_cnn: missing 0.weight, 1.weight, 1.bias")
    assert "unexpected extra.0, extra.1, extra.2 and 2 more" in text
    assert "\n" not in text


def test_a_wrong_shape_is_named_with_both_shapes(model):
    state = other(model) | {"0.weight": torch.ones(2, 3, 3, 3)}

    with pytest.raises(ModelError, match=r"0\.weight \(got float \[2, 3, 3, 3\], expected float"):
        load_weights(model, state, "w")


def test_integers_in_place_of_weights_are_refused(model):
    state = other(model)
    state["0.weight"] = state["0.weight"].to(torch.int8)

    with pytest.raises(ModelError, match=r"0\.weight \(got integer"):
        load_weights(model, state, "w")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused_by_key(model, value):
    state = other(model)
    state["1.bias"][0] = value

    with pytest.raises(ModelError, match=r"w: got values that are not finite in 1\.bias"):
        load_weights(model, state, "w")


def test_half_precision_weights_are_taken_as_they_are(model):
    state = {k: v.half() if v.is_floating_point() else v for k, v in other(model).items()}

    loaded = load_weights(model, state, "w").net

    assert loaded[0].weight.dtype == torch.float32
    assert torch.equal(loaded[0].weight, state["0.weight"].float())
