import contextlib
import hashlib
import io
import logging
import os
import subprocess
import sys
from pathlib import Path

import onnx
import pytest
import torch
import torchvision
from torch import nn

from hardening.deployment.export import export, strip
from hardening.deployment.parity import prove
from hardening.deployment.session import Session
from hardening.deployment.twin import Twin
from hardening.errors import ModelError

SCRIPT = """
import hashlib, sys, torch
from torch import nn
from hardening.deployment.export import export
from hardening.deployment.quantize import quantize_int8

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(1, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.second = nn.Conv2d(4, 4, 3, padding=1)
        self.head = nn.Linear(4, 3)
        for parameter in self.parameters():
            with torch.no_grad():
                parameter.copy_(torch.linspace(-1, 1, parameter.numel()).view_as(parameter))
    def forward(self, x):
        x = torch.relu(self.norm(self.first(x)))
        return self.head((x + self.second(x)).mean((2, 3)))

data = export(Net().eval(), (1, 8, 8))
int8 = quantize_int8(data, torch.linspace(0, 1, 16 * 64).view(16, 1, 8, 8))
print(hashlib.sha256(data).hexdigest(), hashlib.sha256(int8).hexdigest())
"""


def test_the_file_computes_what_the_module_computes(model, float_file, tools):
    x = torch.cat([tools.pictures(60), tools.edges(), tools.towards(model, tools.pictures(8))])
    parity = prove("export", model, Session(float_file), x)

    assert parity.max_difference < 1e-5
    assert parity.scale > 0.1, "an untrained network with tiny logits would prove nothing"
    assert parity.agreement == 1


@pytest.mark.parametrize("batch", [1, 2, 7, 33])
def test_the_batch_is_free(model, float_file, tools, batch):
    x = tools.pictures(batch)

    assert torch.allclose(Session(float_file)(x), model(x), atol=1e-5)


def test_one_file_named_ends_no_path_no_text(float_file):
    proto = onnx.load_model_from_string(float_file)

    assert [value.name for value in proto.graph.input] == ["input"]
    assert [value.name for value in proto.graph.output] == ["logits"]
    assert [(entry.domain, entry.version) for entry in proto.opset_import] == [("", 20)]
    for secret in (str(Path.cwd()), str(Path.home()), "site-packages", ".py", "File ", "conftest"):
        assert secret.encode() not in float_file


@pytest.mark.parametrize("spelt", ["", "ai.onnx"])
def test_the_standard_operators_keep_their_set_however_it_is_spelt(spelt):
    proto = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["" : 20, "ai.onnx.ml" : 3, "com.microsoft" : 1]> '
        "g (float[batch,1,4,4] x) => (float[batch,16] y) { y = Flatten(x) }"
    )
    proto.opset_import[0].domain = spelt

    assert [(entry.domain, entry.version) for entry in strip(proto).opset_import] == [(spelt, 20)]
    assert Session(proto.SerializeToString())(torch.ones(1, 1, 4, 4)).sum() == 16


def test_the_same_model_gives_the_same_bytes(models, floats, tools):
    assert export(models["plain"], tools.shape) == floats["plain"]


def test_another_process_gives_the_same_bytes(tmp_path):
    environment = {**os.environ, "PYTHONHASHSEED": "1", "OMP_NUM_THREADS": "2"}
    elsewhere = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
        cwd=tmp_path,
    )
    here = io.StringIO()
    with contextlib.redirect_stdout(here):
        exec(SCRIPT, {"__name__": "here"})

    assert elsewhere.stderr == ""
    assert elsewhere.stdout == here.getvalue()
    assert len(here.getvalue().split()) == 2


def test_nothing_is_printed_logged_or_left_behind(
    models, tools, capfd, caplog, tmp_path, monkeypatch
):
    handlers = list(logging.getLogger().handlers)
    monkeypatch.chdir(tmp_path)
    with caplog.at_level(logging.DEBUG, "torch.onnx"):
        export(models["plain"], tools.shape)

    assert capfd.readouterr() == ("", "")
    assert [r.message for r in caplog.records if r.levelno >= logging.WARNING] == []
    assert logging.getLogger().handlers == handlers
    assert list(tmp_path.iterdir()) == []


def test_the_model_is_left_as_it_was(models, tools):
    model = models["plain"]
    before = {key: value.clone() for key, value in model.state_dict().items()}

    export(model, tools.shape)

    assert not model.training
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


@pytest.mark.parametrize("part", ["", "head.0", "features.1"])
def test_training_mode_anywhere_is_refused_by_name(tools, part):
    model = tools.plain().eval()
    model.get_submodule(part).train()

    with pytest.raises(ModelError, match=rf"Plain\.?{part} is in training mode"):
        export(model, tools.shape)


def test_dropout_that_is_always_on_is_refused(tools):
    class Sticky(nn.Module):
        def forward(self, x):
            return nn.functional.dropout(x, 0.5, training=True).flatten(1)

    with pytest.raises(ModelError, match=r"Dropout is in training mode|is random"):
        export(Sticky().eval(), tools.shape)


def test_a_twin_is_exported_as_its_own_bytes(int8_file, tools):
    assert export(Twin(int8_file), tools.shape) is int8_file


def test_a_twin_inside_another_model_is_refused(int8_file, tools):
    with pytest.raises(ModelError, match=r"Sequential\.0 is a twin"):
        export(nn.Sequential(Twin(int8_file)).eval(), tools.shape)


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["resnet18", "mobilenet_v3_small"])
def test_torchvision_networks_keep_their_logits(architecture, tools):
    shape = (3, 64, 64)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = getattr(torchvision.models, architecture)(num_classes=10)
    network = tools.settle(network, shape)
    # Untrained heads give logits so small that any tolerance would pass.
    scale = network(tools.pictures(8, shape)).abs().max()
    last = [module for module in network.modules() if isinstance(module, nn.Linear)][-1]
    last.weight.mul_(1 / scale)
    last.bias.mul_(1 / scale)
    data = export(network, shape)
    x = torch.cat([tools.pictures(24, shape), tools.edges(shape)])

    parity = prove(architecture, network, Session(data), x)
    twin = prove(architecture, Session(data), Twin(data), x)

    assert parity.scale > 0.5
    assert parity.max_difference < 1e-4
    assert twin.max_difference < 1e-4
    assert hashlib.sha256(data).hexdigest() == Session(data).facts().sha256
