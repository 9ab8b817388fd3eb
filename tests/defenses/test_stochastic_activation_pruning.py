import pytest
import torch
from torch import nn

from defenses import FORMS
from defenses.stochastic_activation_pruning import pruning, stochastic_activation_pruning
from hardening.errors import ModelError
from hardening.log import Silent
from hardening.models import files
from hardening.models.architecture import Architecture, build


@pytest.fixture
def pruned(model, data, threat, generator):
    return stochastic_activation_pruning(model, data, threat, generator(), Silent())


def activations(n=50):
    return torch.rand(1, n, generator=torch.Generator().manual_seed(3)).pow(2)


class Rectifier(nn.Module):
    def forward(self, x):
        return torch.relu(x)


def test_the_mean_over_draws_is_the_activation_itself():
    h = activations()
    form = pruning([Rectifier()], share=0.5, seed=0)
    mean = form(h.expand(40_000, -1)).mean(0)
    # The standard error of a kept activation is h * sqrt((1 / chance - 1) / draws).
    assert torch.allclose(mean, h[0], atol=0.03)


@pytest.mark.parametrize("share", [0.25, 1.0])
def test_activations_are_kept_as_often_as_draws_with_replacement_hit_them(share):
    h = activations(40)
    kept = pruning([Rectifier()], share=share, seed=0)(h.expand(20_000, -1)) != 0
    rng = torch.Generator().manual_seed(1)
    drawn = torch.multinomial(h.expand(20_000, -1), round(40 * share), True, generator=rng)
    hit = torch.zeros(20_000, 40).scatter(1, drawn, 1.0)
    assert torch.allclose(kept.float().mean(0), hit.mean(0), atol=0.02)


def test_gradients_pass_what_was_kept_scaled_as_it_was():
    h = activations().requires_grad_()
    out = pruning([Rectifier()], share=1.0, seed=0)(h)
    (gradient,) = torch.autograd.grad(out.sum(), h)
    assert torch.allclose(gradient, out.detach() / h.detach())


def test_images_without_an_active_unit_stay_finite():
    assert pruning([Rectifier()], share=1.0, seed=0)(torch.zeros(2, 5)).tolist() == [[0.0] * 5] * 2


def test_answers_differ_from_pass_to_pass_and_repeat_from_the_file(pruned, data):
    x = data.validation.floats()
    fresh = files.load(files.save(pruned), forms=FORMS)
    again = files.load(files.save(pruned), forms=FORMS)
    first, second = fresh(x), fresh(x)
    assert not torch.equal(first, second)
    assert torch.equal(again(x), first)
    assert torch.equal(again(x), second)


def test_another_seed_draws_otherwise(model, data, threat, generator):
    x = data.validation.floats()
    one, other = (
        stochastic_activation_pruning(model, data, threat, generator(seed), Silent())(x)
        for seed in (0, 1)
    )
    assert not torch.equal(one, other)


@pytest.mark.parametrize(("name", "relus"), [("small_cnn", 4), ("resnet20", 19)])
def test_prunes_after_every_relu_be_it_a_module_or_a_function(
    name, relus, make_data, threat, generator, recorder
):
    shape = (3, 16, 16)
    architecture = Architecture(name=name, shape=shape, classes=3, mean=(0,) * 3, std=(1,) * 3)
    stochastic_activation_pruning(
        build(architecture, 0), make_data(shape=shape), threat, generator(), recorder
    )
    assert recorder.lines == [f"prunes after {relus} ReLUs"]


def test_a_model_without_a_relu_is_refused(data, threat, generator):
    smooth = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.SiLU(), nn.Linear(8, 3))
    with pytest.raises(ModelError, match="without any ReLU"):
        stochastic_activation_pruning(smooth, data, threat, generator(), Silent())
