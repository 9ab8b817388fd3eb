import json
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from sklearn.datasets import load_digits

from attacks.pgd import pgd
from defenses.standard import standard
from defenses.training import Loop
from hardening.data import Labelled, TrainingData
from hardening.log import Checkpoint, Silent
from hardening.models.architecture import Architecture, build
from hardening.threat import ThreatModel


class Recorder(Silent):
    """Keeps what it is told; checkpoints go through bytes and JSON, as a real one's do."""

    def __init__(self):
        self.rows = []
        self.lines = []
        self.done = []
        self.notes = []
        self.total = None
        self.kept = None

    def line(self, text):
        self.lines.append(text)

    def chose(self, text):
        self.lines.append(text)

    def metrics(self, step, values):
        self.rows.append((step, dict(values)))

    @contextmanager
    def progress(self, what, total, unit):  # noqa: ARG002
        assert unit == "step"
        self.total = total

        def advance(done=1, note=""):
            self.done.append(done)
            self.notes.append(note)

        yield advance

    def save(self, checkpoint):
        self.kept = (
            save_tensors(dict(checkpoint.tensors)),
            json.dumps(checkpoint.numbers, allow_nan=False),
        )

    def restore(self):
        if self.kept is None:
            return None
        tensors, numbers = self.kept
        return Checkpoint(load_tensors(tensors), json.loads(numbers))


def blobs(images, classes, seed, shape):
    """Images (N, C, H, W) uint8: a random pattern per class, and noise; labels take turns."""
    patterns = torch.rand(classes, *shape, generator=torch.Generator().manual_seed(99))
    labels = torch.arange(images) % classes
    noise = torch.randn(images, *shape, generator=torch.Generator().manual_seed(seed))
    pixels = (patterns[labels] + 0.15 * noise).clamp(0, 1) * 255
    return Labelled(pixels.to(torch.uint8), labels)


def written(layout="NCHW", shape=(1, 8, 8), opset=13, classes=3):
    """ONNX bytes of a file that somebody else wrote: flatten, multiply."""
    size = [*shape[1:], shape[0]] if layout == "NHWC" else [*shape]
    weight = np.random.default_rng(0).normal(size=(np.prod(shape), classes)).astype(np.float32)
    nodes = [
        helper.make_node("Flatten", ["theirs"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weight"], ["answers"]),
    ]
    graph = helper.make_graph(
        nodes,
        "theirs",
        [helper.make_tensor_value_info("theirs", TensorProto.FLOAT, ["n", *size])],
        [helper.make_tensor_value_info("answers", TensorProto.FLOAT, ["n", classes])],
        [numpy_helper.from_array(weight, "weight")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    model.ir_version = 8
    return model.SerializeToString()


@pytest.fixture
def foreign():
    """`foreign(layout, shape, opset, classes)`: an ONNX file of another's making, as bytes."""
    return written


@pytest.fixture
def recorder():
    return Recorder()


@pytest.fixture
def threat():
    return ThreatModel(norm="linf", eps=0.05)


@pytest.fixture
def generator():
    return lambda seed=0: torch.Generator().manual_seed(seed)


@pytest.fixture
def make_data():
    def make(classes=3, train=256, validation=60, shape=(1, 8, 8)):
        return TrainingData(
            blobs(train, classes, 1, shape),
            blobs(validation, classes, 2, shape),
            tuple(str(index) for index in range(classes)),
        )

    return make


@pytest.fixture
def data(make_data):
    return make_data()


@pytest.fixture
def make_model():
    def make(classes=3, shape=(1, 8, 8), width=4):
        architecture = Architecture(
            name="small_cnn",
            params={"width": width},
            shape=shape,
            classes=classes,
            mean=(0.5,) * shape[0],
            std=(0.25,) * shape[0],
        )
        return build(architecture, seed=0)

    return make


@pytest.fixture
def model(make_model):
    return make_model()


@pytest.fixture
def bits():
    """Everything in a model that a caller could notice, as bytes to compare."""

    def raw(tensor):  # numpy knows no bfloat16
        return tensor.detach().reshape(-1).view(torch.uint8).numpy().tobytes()

    def read(model):
        tensors = [*model.named_parameters(), *model.named_buffers()]
        values = [name.encode() + raw(t) for name, t in tensors]
        modes = [f"{module.training}".encode() for module in model.modules()]
        flags = [f"{p.requires_grad} {p.grad is None}".encode() for p in model.parameters()]
        return b"".join(values + modes + flags)

    return read


@pytest.fixture(scope="session")
def digits():
    source = load_digits()
    images = torch.from_numpy(source.images / 16 * 255).to(torch.uint8)[:, None]
    everything = Labelled(images, torch.from_numpy(source.target))
    order = torch.randperm(len(everything), generator=torch.Generator().manual_seed(0))
    parts = [everything.take(part) for part in order.split((1000, 200, 597))]
    data = TrainingData(parts[0], parts[1], tuple("0123456789"))
    return data, parts[2].take(torch.arange(300))


@pytest.fixture(scope="session")
def control(digits):
    architecture = Architecture(
        name="small_cnn", params={"width": 16}, shape=(1, 8, 8), classes=10, mean=(0.3,), std=(0.4,)
    )
    return standard(
        build(architecture, seed=0),
        digits[0],
        torch.Generator().manual_seed(0),
        Silent(),
        loop=Loop(epochs=8),
    )


@pytest.fixture
def robust():
    """Accuracy under an attack that no defense trains with."""

    def measure(model, held_out, threat):
        x, y = held_out.floats(), held_out.labels
        x_adv = pgd(model, x, y, threat, torch.Generator().manual_seed(0), steps=40).x_adv
        return float((model(x_adv).argmax(1) == y).float().mean())

    return measure
