import onnx
import pytest
import torch
from torch import nn

from hardening.deployment.export import export
from hardening.deployment.quantize import quantize_int8
from hardening.deployment.session import Session
from hardening.deployment.storage import store_in_4_bits, store_in_float16
from hardening.deployment.trainable import Trainable
from hardening.deployment.trainable_layers import FloatLayer, IntegerLayer
from hardening.deployment.twin import Twin
from hardening.errors import ModelError


class Mixed(nn.Module):
    """A convolution without bias, a linear layer without bias (MatMul) and one with (Gemm)."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, stride=2, bias=False)
        self.matmul, self.gemm = nn.Linear(392, 16, bias=False), nn.Linear(16, 10)

    def forward(self, x):
        x = torch.relu(self.conv(x)).flatten(1)
        return self.gemm(torch.relu(self.matmul(x)))


@pytest.fixture(scope="module")
def mixed():
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return export(Mixed().eval(), (3, 16, 16))


@pytest.fixture(params=["plain", "residual", "mixed"])
def parent(request, floats, mixed):
    return mixed if request.param == "mixed" else floats[request.param]


def int8(data, tools, **options):
    return quantize_int8(data, tools.pictures(32, seed=7), **options)


FORMS = {
    "int8": int8,
    "int8, a scale per tensor": lambda data, tools: int8(data, tools, per_channel=False),
    "int4": lambda data, tools: store_in_4_bits(data),  # noqa: ARG005
    "float32": lambda data, tools: data,  # noqa: ARG005
}


def trained(module, tools, steps=6, rate=0.02):
    """A few large steps of gradient descent on random labels."""
    x = tools.pictures(32, seed=3)
    y = torch.arange(32) % 10
    optimizer = torch.optim.Adam(module.parameters(), lr=rate)
    losses = []
    for _ in range(steps):
        loss = nn.functional.cross_entropy(module(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("form", FORMS)
def test_what_was_trained_is_what_ships_to_the_last_bit(form, parent, tools):
    data, x = FORMS[form](parent, tools), tools.pictures(64, seed=4)
    module = Trainable(data, parent)
    before = module(x).detach()

    losses = trained(module, tools)

    with torch.no_grad():
        now = module(x)
    file = module.file()
    assert losses[-1] < losses[0]
    assert not torch.allclose(now, before, atol=0.01)
    assert torch.equal(now, Twin(file)(x)), "the twin of the shipped file is another one"
    if form.startswith("int8"):
        assert torch.equal(now, Session(file)(x))
    else:
        assert torch.allclose(now, Session(file)(x), atol=1e-4)
    kept, new = (onnx.load_model_from_string(each) for each in (data, file))
    assert [n.SerializeToString() for n in kept.graph.node] == [
        n.SerializeToString() for n in new.graph.node
    ]


@pytest.mark.parametrize("form", FORMS)
def test_training_starts_at_what_the_file_computes(form, parent, tools):
    data, x = FORMS[form](parent, tools), tools.pictures(32)

    with torch.no_grad():
        logits = Trainable(data, parent)(x)

    assert torch.allclose(logits, Twin(data)(x), atol=0.02 * float(logits.abs().max()))


def test_every_layer_is_trained_and_int8_ones_as_integers(parent, tools):
    layers = sum(
        node.op_type in {"Conv", "Gemm", "MatMul"}
        for node in onnx.load_model_from_string(parent).graph.node
    )

    for form, kind in (("int8", IntegerLayer), ("int4", FloatLayer), ("float32", FloatLayer)):
        module = Trainable(FORMS[form](parent, tools))
        assert [type(layer) for layer in module.layers] == [kind] * layers
        module(tools.pictures(8)).square().sum().backward()
        gradients = [parameter.grad for parameter in module.parameters()]
        assert all(gradient is not None and gradient.any() for gradient in gradients)


def test_weights_come_from_the_float_parent_where_they_round_to_the_file_s(floats, tools):
    parent = floats["plain"]
    stored = {
        t.name: torch.from_numpy(onnx.numpy_helper.to_array(t).copy())
        for t in onnx.load_model_from_string(parent).graph.initializer
    }

    with_parent, without = (Trainable(int8(parent, tools), p) for p in (parent, None))
    other = Trainable(int8(parent, tools), floats["residual"])

    for layer in with_parent.layers:
        (name, weight), *_ = layer.in_the_parent().items()
        assert torch.equal(weight, stored[name])
    for layer, rounded in zip(other.layers, without.layers, strict=True):
        assert torch.equal(layer.weight, rounded.weight)


@pytest.mark.parametrize("form", ["int8", "int4"])
def test_trained_weights_fold_back_into_the_float_parent(form, parent, tools):
    module, x = Trainable(FORMS[form](parent, tools), parent), tools.pictures(32)
    trained(module, tools, steps=2, rate=0.002)

    folded = module.folded(parent)

    again = Trainable(FORMS[form](folded, tools), folded)
    for ours, theirs in zip(module.layers, again.layers, strict=True):
        assert torch.equal(ours.weight, theirs.weight)
    change = (Twin(folded)(x) - Twin(parent)(x)).abs().max()
    assert (Twin(folded)(x) - module(x)).abs().max() < 0.5 * change


def test_weights_that_are_not_in_the_parent_cannot_be_folded(floats, tools):
    module = Trainable(int8(floats["plain"], tools))

    with pytest.raises(ModelError, match="got no tensor"):
        module.folded(floats["residual"])


def test_a_bias_beside_hardly_any_weight_fits_its_32_bits(tools):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(784, 10)).eval()
    with torch.no_grad():
        model[0].weight[1] = 0
        model[0].bias[1] = 3.0
    module, x = Trainable(int8(export(model, (3, 16, 16)), tools)), tools.pictures(16)
    with torch.no_grad():
        module.layers[0].weight[1] = 0

    assert torch.equal(module(x), Session(module.file())(x))
    assert torch.allclose(module(x), model(x), atol=0.1)


def test_a_file_without_weights_of_its_own_to_train_is_refused(floats):
    with pytest.raises(ModelError, match="no layer with stored weights, expected some"):
        Trainable(store_in_float16(floats["plain"]))
