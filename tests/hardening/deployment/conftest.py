import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper
from torch import nn

from hardening.deployment.export import export
from hardening.deployment.quantize import quantize_int8

SHAPE = (3, 16, 16)


class Plain(nn.Module):
    """Convolution, batch norm, pooling; its pictures are called `images`."""

    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1, bias=False),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(8, 12, 3, padding=1, stride=2),
            nn.BatchNorm2d(12),
            nn.ReLU(),
        )
        self.head = nn.Sequential(nn.Dropout(0.5), nn.Linear(12, 10))

    def forward(self, images):
        x = self.features((images - 0.45) / 0.25)
        return self.head(x.mean((2, 3)))


class Block(nn.Module):
    def __init__(self, width, out, stride):
        super().__init__()
        self.first = nn.Conv2d(width, out, 3, stride, 1, bias=False)
        self.norm = nn.BatchNorm2d(out)
        self.second = nn.Conv2d(out, out, 3, 1, 1, bias=False)
        self.norm_again = nn.BatchNorm2d(out)
        self.shortcut = nn.Conv2d(width, out, 1, stride) if stride > 1 else nn.Identity()

    def forward(self, x):
        y = torch.relu(self.norm(self.first(x)))
        return torch.relu(self.norm_again(self.second(y)) + self.shortcut(x))


class Residual(nn.Module):
    """A small residual network whose last map is 4 x 4, so that means of integers tie often."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.blocks = nn.Sequential(Block(8, 8, 1), Block(8, 16, 2), Block(16, 16, 2))
        self.head = nn.Linear(16, 10)

    def forward(self, x):
        x = self.blocks(self.stem((x - 0.45) / 0.25))
        return self.head(nn.functional.adaptive_avg_pool2d(x, 1).flatten(1))


def settle(model, shape=SHAPE):
    """Give an untrained model statistics under which its logits are not tiny, and eval mode."""
    with torch.no_grad():
        for _ in range(3):
            model.train()(pictures(16, shape))
    return model.eval().requires_grad_(False)


def pictures(count, shape=SHAPE, seed=0):
    """Smooth random pictures of many contrasts, with pure black and pure white pixels."""
    rng = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, shape[0], 4, 4, generator=rng)
    x = nn.functional.interpolate(coarse, shape[1:], mode="bicubic")
    x = x + 0.1 * torch.randn(x.shape, generator=rng)
    return (x * (0.5 + torch.rand(count, 1, 1, 1, generator=rng))).clamp(0, 1)


def edges(shape=SHAPE):
    """Black, grey and white pictures, and one with a single white pixel."""
    x = torch.tensor([0.0, 0.5, 1.0, 0.0]).view(-1, 1, 1, 1).repeat(1, *shape)
    x[3, 0, 0, 0] = 1
    return x


def towards(model, x, eps=0.1, steps=5):
    """Adversarial images: signed gradient steps away from the model's decision."""
    y = model(x).argmax(1)
    x_adv = x
    for _ in range(steps):
        z = x_adv.clone().requires_grad_()
        loss = nn.functional.cross_entropy(model(z), y)
        (gradient,) = torch.autograd.grad(loss, z)
        x_adv = (x + (x_adv + eps / 3 * gradient.sign() - x).clamp(-eps, eps)).clamp(0, 1)
    return x_adv


def parsed(text):
    """ONNX bytes of a graph in ONNX's text form."""
    return onnx.parser.parse_model(text).SerializeToString()


def node_model(operator, inputs, opset=20, outputs=1, attributes=None):
    """One node; its first input is given at run time, the others are stored."""
    given = inputs[0]
    names = [None if value is None else f"i{place}" for place, value in enumerate(inputs)]
    results = [f"y{place}" for place in range(outputs)]
    node = helper.make_node(operator, [name or "" for name in names], results, **(attributes or {}))
    kind = helper.np_dtype_to_tensor_dtype(given.dtype)
    graph = helper.make_graph(
        [node],
        "node",
        [helper.make_tensor_value_info("i0", kind, given.shape)],
        [helper.make_empty_tensor_value_info(name) for name in results],
        [
            numpy_helper.from_array(np.asarray(value), name)
            for name, value in zip(names[1:], inputs[1:], strict=True)
            if name
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


@pytest.fixture(scope="session")
def models():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return {"plain": settle(Plain()), "residual": settle(Residual())}


@pytest.fixture(scope="session")
def floats(models):
    """Exported float files by name."""
    return {name: export(model, SHAPE) for name, model in models.items()}


@pytest.fixture(scope="session")
def ints(floats):
    """Quantized files by name."""
    return {name: quantize_int8(data, pictures(64, seed=7)) for name, data in floats.items()}


@pytest.fixture(params=["plain", "residual"])
def name(request):
    return request.param


@pytest.fixture
def model(models, name):
    return models[name]


@pytest.fixture
def float_file(floats, name):
    return floats[name]


@pytest.fixture
def int8_file(ints, name):
    return ints[name]


@pytest.fixture
def tools():
    """Helpers of this file for tests, which cannot import a conftest."""

    class Tools:
        shape = SHAPE
        plain = Plain

    for tool in (settle, pictures, edges, towards, parsed, node_model):
        setattr(Tools, tool.__name__, staticmethod(tool))
    return Tools
