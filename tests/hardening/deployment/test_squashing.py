"""A last softmax or Sigmoid that saturates hides nothing: not from gradients, not from verdicts."""

import onnx
import pytest
import torch
from onnx import TensorProto, helper
from torch import nn

from attacks.apgd import apgd
from hardening.data import Labelled
from hardening.deployed import Deployed
from hardening.deployment.contract import FLOOR, Contract, with_contract
from hardening.deployment.export import export
from hardening.deployment.parity import prove
from hardening.deployment.quantize import quantize_int8
from hardening.deployment.session import Session, start
from hardening.deployment.twin import Twin
from hardening.evaluation import run_attack
from hardening.log import Silent
from hardening.spec import Spec, bind
from hardening.threat import ThreatModel


class Behind(nn.Module):
    """A network and what somebody put behind it."""

    def __init__(self, net, after):
        super().__init__()
        self.net, self.after = net, after

    def forward(self, x):
        return self.after(self.net(x))


@pytest.fixture(scope="module")
def sure(models):
    """The plain net with logits 3000 times as large: as logits, and behind a softmax."""
    loud = export(Behind(models["plain"], lambda z: 3000 * z).eval(), (3, 16, 16))
    soft = export(Behind(models["plain"], lambda z: (3000 * z).softmax(1)).eval(), (3, 16, 16))
    return loud, with_contract(soft, Contract(outputs="probabilities"))


def test_a_saturated_softmax_has_finite_answers_and_living_gradients(sure, tools):
    x = tools.pictures(20)
    answers = Session(sure[1])(x)
    assert answers.isfinite().all()
    assert answers.min() == FLOOR
    prove("saturated", Twin(sure[1]), Session(sure[1]), x)
    images = x.clone().requires_grad_()
    lowest = Twin(sure[1])(images).amin(1).sum()
    (gradient,) = torch.autograd.grad(lowest, images)
    assert (gradient.abs().amax((1, 2, 3)) > 0).all()


def test_a_saturated_softmax_hides_nothing_from_an_attack(sure, tools):
    """As many images stand as with the logits themselves; with the softmax's own gradients, all."""
    loud, soft = sure
    images = Labelled(tools.pictures(64), Session(loud)(tools.pictures(64)).argmax(1))
    plain, ours = (standing(images, Session(data), Twin(data)) for data in (loud, soft))
    bare = Twin(export(Twin(soft), tools.shape)[: -len(_entry(soft))])
    naive = standing(images, Session(soft), lambda images: (bare(images) + 1e-12).log())

    assert plain < 40
    assert abs(plain - ours) <= 2
    assert naive > 60


def standing(images, session, twin):
    """How many images stand under an attack on the two."""
    attack = bind({"apgd": apgd}, Spec(name="apgd", params={"steps": 20, "loss": "dlr"}))
    target, places = Deployed(session, twin), torch.arange(len(images))
    threat = ThreatModel(norm="linf", eps=0.025)
    outcome = run_attack("apgd", attack, target, session, images, places, threat, 0, Silent())
    return len(images) - int(outcome.fooled.sum())


def squashed(z):
    """Nearly every answer is exactly 0 or 1, for several classes at once; a map in between."""
    return torch.sigmoid(3000 * z[:, :, None, None]).flatten(1)


@pytest.fixture(scope="module")
def ends_in_sigmoid(models):
    return export(Behind(models["plain"], squashed).eval(), (3, 16, 16))


@pytest.mark.parametrize("outputs", ["logits", "probabilities"])
def test_a_saturated_sigmoid_hides_nothing_from_an_attack(sure, ends_in_sigmoid, tools, outputs):
    """The very images stand that stand without it; with its own gradients and ties, nearly all."""
    loud, file = sure[0], with_contract(ends_in_sigmoid, Contract(outputs=outputs))
    session, twin, x = Session(file), Twin(file), tools.pictures(64)
    images = Labelled(x, Session(loud)(x).argmax(1))
    bare = start(ends_in_sigmoid, "bare", 1)
    answers = torch.from_numpy(bare.run(None, {"input": x.numpy()})[0])
    naive = standing(images, session, lambda x: torch.sigmoid(Twin(loud)(x)))

    assert ((answers == 0) | (answers == 1)).float().mean() > 0.9
    assert (answers == 1).sum(1).float().mean() > 2
    assert session(x).argmax(1).equal(images.labels)
    assert answers.gather(1, session(x).argmax(1, keepdim=True)).eq(answers.amax(1)[:, None]).all()
    prove("sigmoid", twin, session, x)
    plain = standing(images, Session(loud), Twin(loud))
    assert plain < 40
    assert standing(images, session, twin) == plain
    assert naive > 60


def test_a_sigmoid_is_read_before_rounding_too(models, tools):
    """The project's own int8 file leaves it in float; other quantizers round on both sides."""
    x = tools.pictures(64)
    int8 = quantize_int8(
        export(Behind(models["plain"], torch.sigmoid).eval(), tools.shape),
        tools.pictures(64, seed=7),
    )
    rounded = onnx.load_model_from_string(int8)
    last = next(node for node in rounded.graph.node if node.op_type == "Sigmoid")
    scale, zero, after = "p.scale", "p.zero", last.output[0]
    last.output[0] = "p"
    place = list(rounded.graph.node).index(last) + 1
    for node in (
        helper.make_node("DequantizeLinear", ["p.bytes", scale, zero], [after]),
        helper.make_node("QuantizeLinear", ["p", scale, zero], ["p.bytes"]),
    ):
        rounded.graph.node.insert(place, node)
    rounded.graph.initializer.extend(
        [
            helper.make_tensor(scale, TensorProto.FLOAT, [], [1 / 255]),
            helper.make_tensor(zero, TensorProto.UINT8, [], [0]),
        ]
    )
    for data in (int8, rounded.SerializeToString()):
        assert len(Session(data)(x).unique()) > 256
        assert prove("int8", Twin(data), Session(data), x).max_difference == 0


def _entry(data):
    """The bytes of a file's contract."""
    entry = onnx.ModelProto(metadata_props=onnx.load_model_from_string(data).metadata_props)
    return entry.SerializeToString()
