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
from hardening.evaluation import all_stand, run_attack
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
    """One where a class is close to the first, else zero: ties there, and no gradient anywhere."""
    return torch.sigmoid(3000 * (z - z.amax(1, keepdim=True))[:, :, None, None] + 200).flatten(1)


@pytest.fixture(scope="module")
def ends_in_sigmoid(models):
    return export(Behind(models["plain"], squashed).eval(), (3, 16, 16))


def shipped(data, x):
    """What the file itself answers."""
    return torch.from_numpy(start(data, "bare", 1).run(None, {"input": x.numpy()})[0])


@pytest.mark.parametrize("outputs", ["logits", "probabilities"])
def test_a_saturated_sigmoid_hides_no_gradients(sure, ends_in_sigmoid, tools, outputs):
    """Nothing stands that falls without it; with its own gradients, much does."""
    loud, file = sure[0], with_contract(ends_in_sigmoid, Contract(outputs=outputs))
    session, twin, x = Session(file), Twin(file), tools.pictures(64)
    images = Labelled(x, Session(loud)(x).argmax(1))
    naive = standing(images, session, lambda x: torch.sigmoid(twin(x)))

    answers = shipped(ends_in_sigmoid, x)
    assert ((answers == 0) | (answers == 1)).float().mean() > 0.9
    prove("sigmoid", twin, session.logits, x)
    plain = standing(images, Session(loud), Twin(loud))
    assert standing(images, session, twin) <= plain < naive
    assert naive > 40


def test_what_a_saturated_sigmoid_answers_decides(ends_in_sigmoid, tools):
    """Not what it read: where classes tie, the file is right for none of them."""
    session, twin, x = Session(ends_in_sigmoid), Twin(ends_in_sigmoid), tools.pictures(200)
    answers, logits = shipped(ends_in_sigmoid, x), session(x)
    first = answers == answers.amax(1, keepdim=True)
    tied = first.sum(1) > 1
    before = session.logits(x)

    assert 10 < tied.sum() < 190
    assert torch.equal(logits == logits.amax(1, keepdim=True), first)
    assert torch.equal(logits[~tied], before[~tied])
    for label in (before.argmax(1), logits.argmax(1)):
        for model in (session, Deployed(session, session), Deployed(session, twin)):
            assert torch.equal(all_stand(model, Labelled(x, label)), ~tied)
    doubted = Deployed(session, twin).stands(x, -before, logits.argmax(1))
    assert torch.equal(doubted, ~tied)


GRIDS = {
    "where it saturates": ([1 / 2550], [0]),
    "on a grid for each class": ([1 / 255] * 8 + [1 / 25500, 1 / 255], [0] * 10),
}


@pytest.mark.parametrize("grid", GRIDS)
def test_rounding_behind_a_sigmoid_decides(models, tools, grid):
    """It need not keep the order of the classes."""
    file = export(Behind(models["plain"], torch.sigmoid).eval(), tools.shape)
    data, x = rounded_again(file, *GRIDS[grid]), tools.pictures(64)
    answers = shipped(data, x)

    assert (answers.argmax(1) != Session(file)(x).argmax(1)).any()
    assert torch.equal(Session(data)(x), answers)
    prove("rounded", Twin(data), Session(data), x)


def test_the_own_int8_file_leaves_a_sigmoid_in_float(models, tools):
    float_file = export(Behind(models["plain"], torch.sigmoid).eval(), tools.shape)
    data, x = quantize_int8(float_file, tools.pictures(64, seed=7)), tools.pictures(64)
    assert len(Session(data)(x).unique()) > 256
    assert prove("int8", Twin(data), Session(data).logits, x).max_difference == 0


def rounded_again(data, scale, zero):
    """The file with its last tensor on a grid of bytes, or on one for each class."""
    model = onnx.load_model_from_string(data)
    graph, axis = model.graph, {"axis": 1} if len(scale) > 1 else {}
    last, sizes = graph.node[-1], [len(scale)] if len(scale) > 1 else []
    output, last.output[0] = last.output[0], "p"
    grid = ["p.scale", "p.zero"]
    graph.node.append(helper.make_node("QuantizeLinear", ["p", *grid], ["p.bytes"], **axis))
    graph.node.append(helper.make_node("DequantizeLinear", ["p.bytes", *grid], [output], **axis))
    graph.initializer.append(helper.make_tensor(grid[0], TensorProto.FLOAT, sizes, scale))
    graph.initializer.append(helper.make_tensor(grid[1], TensorProto.UINT8, sizes, zero))
    return model.SerializeToString()


def _entry(data):
    """The bytes of a file's contract."""
    entry = onnx.ModelProto(metadata_props=onnx.load_model_from_string(data).metadata_props)
    return entry.SerializeToString()
