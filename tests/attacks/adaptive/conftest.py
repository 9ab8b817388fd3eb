"""Digits networks whose defenses are known to be broken: the due attack must break them here.

Trained once a session, in seconds; images are (B, 1, 16, 16).
"""

from math import pi, sqrt

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

from attacks.pgd import pgd
from hardening.threat import ThreatModel

SIDE, CLASSES = 16, 10


class Sparse(nn.Module):
    """Stochastic activation pruning (https://arxiv.org/abs/1803.01442) after each ReLU.

    As many activations are drawn with replacement, by size, as there are; the drawn ones are kept
    and scaled up by the inverse of their chance.
    """

    def __init__(self) -> None:
        super().__init__()
        self.rng = torch.Generator().manual_seed(0)

    def forward(self, x: Tensor) -> Tensor:
        sizes = x.detach().flatten(1).abs()
        share = sizes / sizes.sum(1, keepdim=True).clamp(min=1e-12)
        chance = (1 - (1 - share) ** share.shape[1]).view_as(x)
        kept = torch.rand(x.shape, generator=self.rng) < chance
        return torch.where(kept, x / chance.clamp(min=1e-12), 0.0)


class Rounded(nn.Module):
    """Activations on a grid of 8-bit width, as in an integer model; no gradient passes."""

    def __init__(self, through=None) -> None:
        super().__init__()
        self.through = through or torch.round

    def forward(self, x: Tensor) -> Tensor:
        return self.through(x.clamp(0, 16) * (255 / 16)) * (16 / 255)


def network(width: int, seed: int, outputs: int = CLASSES) -> nn.Sequential:
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for before, after, stride in ((1, width, 1), (width, 2 * width, 2), (2 * width, 2 * width, 2)):
        layers += [nn.Conv2d(before, after, 3, stride, 1), nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(32 * width, outputs))


def trained(model, x, y, *, epochs, temperature=1.0):
    optimizer = torch.optim.Adam(model.parameters())
    steps = epochs * -(-len(x) // 100)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 5e-3, total_steps=steps)
    rng = torch.Generator().manual_seed(1)
    for _ in range(epochs):
        for part in torch.randperm(len(x), generator=rng).split(100):
            optimizer.zero_grad()
            F.cross_entropy(model(x[part]) / temperature, y[part]).backward()
            optimizer.step()
            schedule.step()
    return model.eval()


def with_each_relu(model: nn.Sequential, build) -> nn.Sequential:
    """The same layers, each ReLU followed by what `build()` gives."""
    layers = []
    for layer in model:
        layers += [layer, build()] if isinstance(layer, nn.ReLU) else [layer]
    return nn.Sequential(*layers).eval()


def jpeg(x: Tensor, quality: float = 0.25) -> Tensor:
    """8 x 8 cosine transform, coefficients rounded to a grid, back: JPEG without its files."""
    place = torch.arange(8.0)
    basis = torch.cos(pi / 8 * (place[None] + 0.5) * place[:, None]) / 2
    basis[0] /= sqrt(2)
    blocks = x.unflatten(3, (-1, 8)).unflatten(2, (-1, 8)).transpose(3, 4)
    coefficients = basis @ blocks @ basis.T
    grid = quality * (1 + (place[:, None] + place[None]) / 4)
    rounded = (coefficients / grid).round() * grid
    blocks = basis.T @ rounded @ basis
    return blocks.transpose(3, 4).flatten(2, 3).flatten(3, 4).clamp(0, 1)


@pytest.fixture(scope="session")
def digits():
    data = load_digits()
    x = torch.from_numpy(data.images).float()[:, None] / 16
    x = F.interpolate(x, scale_factor=2, mode="bilinear").clamp(0, 1)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    return x[order], torch.from_numpy(data.target)[order]


@pytest.fixture(scope="session")
def training(digits):
    return digits[0][200:], digits[1][200:]


@pytest.fixture(scope="session")
def dense(training):
    """Healthy and undefended."""
    return trained(network(12, 0), *training, epochs=8)


@pytest.fixture(scope="session")
def relatives(training):
    """Others of its family, trained on the same data."""
    return [trained(network(width, width), *training, epochs=8) for width in (8, 16)]


@pytest.fixture(scope="session")
def distilled(training):
    """Trained at temperature 100 and deployed at 1, as defensive distillation does."""
    return trained(network(12, 3), *training, epochs=8, temperature=100.0)


@pytest.fixture
def pruned(dense):
    """A new one for each test: its random numbers are its own."""
    return with_each_relu(dense, Sparse)


@pytest.fixture(scope="session")
def rounded(dense):
    """`rounded()` has no gradients, `rounded(through)` rounds by `through`."""
    return lambda through=None: with_each_relu(dense, lambda: Rounded(through))


@pytest.fixture(scope="session")
def behind_jpeg(dense):
    """The transform, and the network that was not trained for it."""
    return jpeg, dense


@pytest.fixture(scope="session")
def detector(dense, training):
    """Scores (B,): above zero for images that were attacked."""
    x, y = training[0][:800], training[1][:800]
    threat, rng = ThreatModel(eps=0.15), torch.Generator().manual_seed(0)
    x_adv = pgd(dense, x, y, threat, rng, steps=10).x_adv
    images, marks = torch.cat([x, x_adv]), torch.arange(2).repeat_interleave(len(x))
    model = trained(network(8, 9, outputs=2), images, marks, epochs=4)
    return lambda x: model(x)[:, 1] - model(x)[:, 0]


@pytest.fixture(scope="session")
def batch(digits, dense):
    """Test images that the dense network gets right."""
    x, y = digits[0][:120], digits[1][:120]
    right = dense(x).argmax(1) == y
    return x[right][:100], y[right][:100]
