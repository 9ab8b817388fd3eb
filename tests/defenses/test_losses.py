"""The losses of the training defenses, looked at one by one."""

from copy import deepcopy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from defenses.adversarial_training import worst_case
from defenses.compactness import compact
from defenses.divergence import divergence
from defenses.extreme_norm import either, extremes
from defenses.fast_bat import bilevel
from defenses.helper import helped
from defenses.mart import misclassification_aware
from defenses.n_fgsm import noisy_step
from defenses.rs_fgsm import projected_step
from defenses.trades import trade
from hardening.threat import ThreatModel

LOSSES = {
    "worst_case": lambda rng: worst_case(rng, steps=3),
    "trade": lambda rng: trade(rng, beta=6.0, steps=3),
    "noisy_step": lambda rng: noisy_step(rng, noise=2.0),
    "projected_step": lambda rng: projected_step(rng, step=1.25),
    "misclassification_aware": lambda rng: misclassification_aware(rng, beta=5.0, steps=3),
    "helped": lambda rng: helped(given(), rng, beta=2.5, gamma=0.5, reach=2.0, steps=3),
    "either": lambda rng: either(LINF_AND_L1, 0.05, torch.zeros(2, 2), rng, steps=3),
    "bilevel": lambda rng: bilevel(rng, torch.zeros(2), curvature=10, reach=1),
    "compact": lambda rng: compact(rng, (1.0,) * 5, steps=3),
}

LINF_AND_L1 = extremes(ThreatModel(norm="linf", eps=0.05), 64, linf=None, l1=None)


def given():
    """Another model, whose answers a helper asks for."""
    with torch.random.fork_rng():
        torch.manual_seed(5)
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 3))


each_loss = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
each_threat = pytest.mark.parametrize(
    "threat", [ThreatModel(norm="linf", eps=0.05), ThreatModel(norm="l2", eps=0.3)], ids=str
)


class Watched(nn.Module):
    """Remembers what it is shown in train mode; dropout makes any noise visible."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Flatten(), nn.Dropout(0.5), nn.Linear(64, 16), nn.BatchNorm1d(16), nn.Linear(16, 3)
        )
        self.seen = []

    def forward(self, x):
        if self.training:
            self.seen.append(x.detach().clone())
        return self.layers(x)


@pytest.fixture
def batch(data):
    return data.train.floats()[:16], data.train.labels[:16]


@pytest.fixture
def watched():
    model = Watched()
    model.load_state_dict(
        {
            k: torch.randn(v.shape, generator=torch.Generator().manual_seed(3)).abs().to(v)
            for k, v in model.state_dict().items()
        }
    )
    return model


@each_loss
@each_threat
def test_the_attack_inside_is_free_of_dropout_and_batch_statistics(
    loss, threat, watched, batch, generator
):
    """The same generator, another global state: the very same adversarial images."""
    shown = []
    for seed in (1, 2):
        model = deepcopy(watched)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            loss(generator())(model, *batch, threat)
        shown.append(torch.stack(model.seen))

    assert torch.equal(*shown)


@each_loss
def test_the_model_stays_in_train_mode_with_free_weights(loss, threat, watched, batch, generator):
    value = loss(generator())(watched, *batch, threat)

    assert watched.training
    assert all(parameter.requires_grad for parameter in watched.parameters())
    assert all(parameter.grad is None for parameter in watched.parameters())
    gradients = torch.autograd.grad(value, list(watched.parameters()))
    assert all(gradient.isfinite().all() for gradient in gradients)
    assert any(gradient.any() for gradient in gradients)


@pytest.mark.parametrize(
    "name", ["worst_case", "trade", "projected_step", "misclassification_aware", "compact"]
)
@each_threat
def test_multi_step_losses_train_inside_the_threat_model(name, threat, watched, batch, generator):
    x, _ = batch

    LOSSES[name](generator())(watched, *batch, threat)

    x_adv = watched.seen[-1]
    assert threat.contains(x, x_adv).all()
    assert (threat.distance(x, x_adv) > 0.7 * threat.eps).all()


@each_threat
def test_n_fgsm_keeps_its_noise_and_only_the_pixel_range_cuts_it(threat, watched, batch, generator):
    x, _ = batch

    LOSSES["noisy_step"](generator())(watched, *batch, threat)

    x_adv = watched.seen[-1]
    distance = threat.distance(x, x_adv)
    assert (distance > 1.1 * threat.eps).all()
    assert (distance <= 3.0001 * threat.eps).all()
    assert x_adv.min() >= 0
    assert x_adv.max() <= 1


def test_the_worst_case_is_worse_than_the_clean_one(threat, model, batch, generator):
    model.eval()  # so that both see the same statistics
    x, y = batch

    adversarial = worst_case(generator(), steps=5)(model, x, y, threat)

    assert adversarial > F.cross_entropy(model(x), y)


def test_the_divergence_is_zero_between_equals_and_positive_between_others():
    first = torch.randn(50, 4, generator=torch.Generator().manual_seed(0)).log_softmax(1)
    second = torch.randn(50, 4, generator=torch.Generator().manual_seed(1)).log_softmax(1)

    assert torch.equal(divergence(first, first), torch.zeros(50))
    assert (divergence(first, second) > 0).all()


def test_the_divergence_is_the_textbook_sum_in_the_paper_s_direction():
    first = torch.tensor([[0.9, 0.1], [0.5, 0.5]])
    second = torch.tensor([[0.5, 0.5], [0.25, 0.75]])

    expected = (first * (first / second).log()).sum(1)
    torch.testing.assert_close(divergence(first.log(), second.log()), expected)


def test_trades_without_its_second_term_is_the_clean_cross_entropy(threat, model, batch, generator):
    model.eval()
    x, y = batch

    value = trade(generator(), beta=0.0, steps=2)(model, x, y, threat)

    torch.testing.assert_close(value, F.cross_entropy(model(x), y))


def test_trades_grows_with_beta(threat, model, batch, generator):
    model.eval()
    values = [trade(generator(), beta=b, steps=3)(model, *batch, threat) for b in (0.0, 1.0, 6.0)]

    assert values[0] < values[1] < values[2]
    torch.testing.assert_close((values[2] - values[0]) / (values[1] - values[0]), torch.tensor(6.0))
