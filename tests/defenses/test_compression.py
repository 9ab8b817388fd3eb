"""One share of the weights is kept, all the way from pruning to the int8 file."""

import onnx
import pytest
import torch
from onnx import numpy_helper

from defenses.compression import compression, prune
from defenses.quantization import quantization
from defenses.training import Loop
from hardening.deployment.export import export
from hardening.deployment.session import Session
from hardening.deployment.twin import Twin
from hardening.errors import ModelError
from hardening.log import Silent

SHORT = {"steps": 2, "loop": Loop(epochs=2, batch_size=32)}


def share_of(file):
    """Of int8 weights of layers that are not zero."""
    tensors = onnx.load_model_from_string(file).graph.initializer
    weights = [
        numpy_helper.to_array(t)
        for t in tensors
        if t.data_type == onnx.TensorProto.INT8 and len(t.dims) > 1
    ]
    assert weights
    return sum((w != 0).sum() for w in weights) / sum(w.size for w in weights)


@pytest.mark.parametrize("share", [0.05, 0.3, 0.9])
def test_the_largest_weights_of_all_layers_together_are_kept(share, model):
    before = {name: p.clone() for name, p in model.named_parameters()}

    masks = prune(model, share)

    kept = torch.cat([before[name][mask].abs() for name, mask in masks.items()])
    gone = torch.cat([before[name][~mask].abs() for name, mask in masks.items()])
    assert len(kept) / (len(kept) + len(gone)) == pytest.approx(share, abs=1e-3)
    assert kept.min() >= gone.max()
    for name, weight in model.named_parameters():
        expected = before[name] * masks[name] if name in masks else before[name]
        assert torch.equal(weight, expected)
        assert (name in masks) == (weight.dim() > 1)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_what_was_pruned_is_zero_in_every_step_and_in_the_int8_file(
    optimizer, model, data, threat, generator, recorder
):
    seen = []

    def watch(module, _):
        weights = [p for p in module.parameters() if p.dim() > 1]
        zeros = sum(int((p == 0).sum()) for p in weights)
        seen.append(1 - zeros / sum(p.numel() for p in weights))

    model.register_forward_pre_hook(watch)
    loop = Loop(
        epochs=2, batch_size=32, optimizer=optimizer, awp=0.01, replays=2, learning_rate=5e-3
    )

    twin = compression(model, data, threat, generator(), recorder, share=0.3, steps=1, loop=loop)

    # Steps of training, and looks at the averaged weights, alike; awp's are between two steps.
    assert min(seen) == pytest.approx(0.3, abs=1e-3)
    assert 0.25 < share_of(twin.data) <= 0.3 + 1e-3
    assert Session(twin.data).facts().precision == "int8"


def test_the_log_says_that_only_compressed_bytes_fall(model, data, threat, generator, recorder):
    dense = quantization(model.eval(), data, threat, generator(), Silent())

    twin = compression(model, data, threat, generator(), recorder, share=0.1, **SHORT)

    said = recorder.lines[-1]
    assert said.startswith("pruned to ")
    assert f"{len(twin.data):,} bytes, " in said
    assert len(twin.data) == pytest.approx(len(dense.data), rel=0.1)
    compressed = int(said.split()[-2].replace(",", ""))
    assert compressed < 0.6 * len(twin.data)


def test_a_float_file_is_compressed_and_a_quantized_one_refused(
    model, data, threat, generator, recorder
):
    file = export(model.eval(), (1, 8, 8))

    twin = compression(Twin(file), data, threat, generator(), Silent(), share=0.4, **SHORT)

    assert share_of(twin.data) <= 0.4 + 1e-3
    with pytest.raises(ModelError, match="got a file in int8, expected float32"):
        compression(twin, data, threat, generator(), recorder, **SHORT)
    assert recorder.total is None


def test_a_layer_is_not_lost_in_silence(model, data, threat, generator):
    with torch.no_grad():
        next(model.parameters()).mul_(1e-6)

    with pytest.raises(ModelError, match=r"share 0.1 leaves net.0.weight without weights"):
        compression(model, data, threat, generator(), Silent(), share=0.1, **SHORT)


@pytest.mark.slow
def test_adversarial_training_gives_back_what_pruning_takes(digits, control, robust, generator):
    """Of a hardened model with a tenth of its weights: the claim of the paper."""
    from copy import deepcopy

    from defenses.adversarial_training import adversarial_training
    from hardening.threat import ThreatModel

    (data, held_out), threat = digits, ThreatModel(norm="linf", eps=0.1)
    hardened = adversarial_training(
        control, data, threat, generator(1), Silent(), loop=Loop(epochs=6)
    )
    pruned = deepcopy(hardened)
    prune(pruned, 0.1)

    twin = compression(hardened, data, threat, generator(1), Silent(), share=0.1)

    assert robust(pruned, held_out, threat) < robust(hardened, held_out, threat) - 0.1
    assert robust(twin, held_out, threat) > robust(pruned, held_out, threat) + 0.1
