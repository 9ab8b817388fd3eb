"""Small models whose robustness is known in closed form, or whose path under attack is scripted.

All of them sum element by element: an image's logits have the same bits in any batch.
"""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn


class Affine(nn.Module):
    """Logits `x @ weight.T + bias`, for images of any rank."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(weight), nn.Parameter(bias)

    def forward(self, x: Tensor) -> Tensor:
        return (x.flatten(1)[:, None] * self.weight).sum(-1) + self.bias

    def distance(self, x: Tensor, y: Tensor, norm: str) -> Tensor:
        """Exact distance of each image to the nearest other class, (B,), box inactive."""
        logits, rows = self(x).detach(), torch.arange(len(y))
        gaps = logits[rows, y][:, None] - logits
        slopes = self.weight[y][:, None] - self.weight
        dual = {"linf": 1, "l2": 2, "l1": float("inf")}[norm]
        distances = (gaps / slopes.norm(dual, dim=-1)).detach()
        distances[rows, y] = float("inf")
        return distances.amin(1)


class Curved(nn.Module):
    """A two-layer network with random weights; `scale` multiplies its logits."""

    def __init__(self, pixels: int, classes: int, scale: float = 1.0) -> None:
        super().__init__()
        rng = torch.Generator().manual_seed(3)
        self.first = nn.Parameter(torch.randn(16, pixels, generator=rng) / pixels**0.5 * 4)
        self.second = nn.Parameter(torch.randn(classes, 16, generator=rng))
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        hidden = ((x - 0.5).flatten(1)[:, None] * self.first).sum(-1).tanh()
        return (hidden[:, None] * self.second).sum(-1) * self.scale


class Scripted(nn.Module):
    """Ten classes; logits are a script of t = mean(x) - 0.5, gradients always point upward in t."""

    def __init__(self, script: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.script = script
        self.register_buffer("push", torch.tensor([-1.0] + 9 * [1.0]))

    def forward(self, x: Tensor) -> Tensor:
        t = x.flatten(1).mean(1) - 0.5
        return self.script(t.detach()).detach() + (t - t.detach())[:, None] * self.push


class Counted:
    """A model that counts its calls, and the images forward and backward."""

    def __init__(self, model: Callable[[Tensor], Tensor]) -> None:
        self.model = model
        self.sizes: list[int] = []
        self.backwards: list[int] = []

    def __call__(self, x: Tensor) -> Tensor:
        self.sizes.append(len(x))
        logits = self.model(x)
        if logits.requires_grad:
            logits.register_hook(lambda gradient: self.backwards.append(len(gradient)))
        return logits


@pytest.fixture
def rng() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.fixture(params=["linf", "l2", "l1"])
def norm(request) -> str:
    return request.param


@pytest.fixture
def affine():
    """`affine(pixels, classes)`: two classes meet near mid-grey, the others are out of reach."""

    def build(pixels: int, classes: int) -> Affine:
        rng = torch.Generator().manual_seed(7)
        weight = torch.zeros(classes, pixels)
        weight[1] = torch.randn(pixels, generator=rng)
        weight[1] += 0.2 * weight[1].sign()
        bias = torch.full((classes,), -50.0)
        bias[0], bias[1] = 0.0, -0.5 * float(weight[1].sum())
        return Affine(weight, bias)

    return build


@pytest.fixture
def random_affine():
    """`random_affine(pixels, classes)`: every class is near every other."""

    def build(pixels: int, classes: int) -> Affine:
        rng = torch.Generator().manual_seed(5)
        weight = torch.randn(classes, pixels, generator=rng)
        return Affine(weight, -0.5 * weight.sum(1))

    return build


@pytest.fixture
def curved():
    return Curved


@pytest.fixture
def scripted():
    return Scripted


@pytest.fixture
def counted():
    return Counted


@pytest.fixture
def images():
    """`images(model, *shape)`: random images and what the model says of them."""

    def draw(model, *shape: int, low: float = 0.0, high: float = 1.0) -> tuple[Tensor, Tensor]:
        x = low + (high - low) * torch.rand(shape, generator=torch.Generator().manual_seed(1))
        return x, model(x).detach().argmax(1)

    return draw
