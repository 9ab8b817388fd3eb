"""Whether gradients of a file are to be had is decided once, on images of every kind."""

import json

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from hardening.data import Labelled, TestData
from hardening.data.digits import digits
from hardening.deployment.operators import OPERATORS
from hardening.deployment.session import Session, start
from hardening.errors import NumericsError, ParityError
from hardening.threat import ThreatModel
from tasks.inspect import inspect_file
from tasks.step import Run
from tasks.store import open_store

EPS = 0.06

LINEAR = "a = Abs(images) f = Flatten(a) logits = Gemm(f, weight, bias)"

CORNER = np.zeros((64, 10), "f")
CORNER[0] = 1


def model(body, **constants):
    """ONNX bytes of a graph from images to logits; stored are a weight and a bias, and more."""
    rng = np.random.default_rng(0)
    stored = {"weight": rng.normal(size=(64, 10)), "bias": rng.normal(size=10), **constants}
    made = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["" : 20]>'
        "g (float[batch,1,8,8] images) => (float[batch,10] logits) {" + body + "}"
    )
    for name, value in stored.items():
        kind = "u1" if name == "zero" else "f"
        made.graph.initializer.append(numpy_helper.from_array(np.array(value, kind), name))
    for node in made.graph.node:
        node.name = f"{node.op_type} of {node.output[0]}"
    return made.SerializeToString()


@pytest.fixture
def inspect(tmp_path, monkeypatch):
    """The step that decides, on a file that gets all images right that it decides about."""
    monkeypatch.setenv("TEMPER_HOME", str(tmp_path / "home"))
    store, raw = open_store((tmp_path / "store").as_uri()), digits(None)
    run = Run(store, "key", "theirs: inspect")

    def step(data, brought=True, of_brought=False, norm="linf", eps=EPS):
        images = raw.train.first(300)
        labels = Session(data)(images.floats()).argmax(1)
        test = TestData(Labelled(images.images, labels), raw.classes)
        threat = ThreatModel(norm=norm, eps=eps)
        given = run, store.put(data), store.put(test.to_bytes())
        origin = {"brought": brought, "of_brought": of_brought}
        made = inspect_file.function(*given, threat=threat, seed=0, **origin)
        return made, json.loads(made["seen"])

    return step


def among_noise(x):
    """The upper left pixel is black in every digit and in few random images."""
    return (x[:, :, :1, :1] > 2 * EPS).expand_as(x)


def near_black(x):
    """The first column is black in most digits; attacked, it is not, and in no random image."""
    most = x[:, :, :, :1].amax(2, keepdim=True)
    return ((most > 0) & (most <= EPS + 1e-6)).expand_as(x)


@pytest.mark.parametrize(("norm", "eps"), [("linf", EPS), ("l2", 0.5), ("l0", 3)])
def test_a_twin_is_held_against_the_file_on_images_of_every_kind(inspect, norm, eps):
    made, seen = inspect(model(LINEAR), norm=norm, eps=eps)
    parity = seen["twin_parity"]

    assert "no_twin" not in made
    assert (parity["images"], parity["random"], parity["adversarial"]) == (300 + 2 * 256, 256, 256)
    assert parity["agreement"] == 1


@pytest.mark.parametrize(("amount", "kind"), [(among_noise, "random"), (near_black, "adversarial")])
def test_what_clean_images_do_not_show_is_found(inspect, broken, amount, kind):
    broken("Abs", amount)
    made, seen = inspect(model(LINEAR))

    assert f"twin on {kind} images: logits differ by" in made["no_twin"].decode()
    assert seen["twin_parity"] is None


def test_a_twin_of_our_own_export_that_differs_ends_the_run(inspect, broken):
    broken("Abs")
    with pytest.raises(ParityError, match=r"^theirs: inspect: twin on clean.*; first Abs") as found:
        inspect(model(LINEAR), brought=False, of_brought=True)
    assert "\n" not in str(found.value)


def test_a_twin_that_cannot_be_run_is_none(inspect, monkeypatch):
    def refuses(x):
        if len(x) > 1:
            raise RuntimeError("one image\nat a time")
        return x

    monkeypatch.setitem(OPERATORS, "Abs", refuses)
    made, _ = inspect(model(LINEAR))
    assert made["no_twin"].decode().endswith("no twin of it: one image at a time")
    with pytest.raises(RuntimeError, match="one image"):
        inspect(model(LINEAR), brought=False)


ROOT = LINEAR.replace("Abs", "Sqrt")
CORNERED = (
    "f = Flatten(images) h = MatMul(f, corner) s = Sub(few, h) t = Abs(s) u = Add(s, t) "
    "p = Mul(u, u) q = Sqrt(p) v = Mul(q, bias) l = MatMul(f, weight) logits = Add(l, v)"
)
NOWHERE = {
    "gradients of a root of zero": (
        ROOT,
        "its gradients are not finite for 300 of 300 images",
    ),
    "steps": (
        "b = Greater(images, half) a = Cast<to = 1>(b) f = Flatten(a) "
        "logits = Gemm(f, weight, bias)",
        "its gradients are zero for all of 300 images",
    ),
    "a root of zero that only an attack finds": (
        CORNERED,
        "no twin of it: input gradients are not finite for",
    ),
}


@pytest.mark.parametrize("brought", [True, False])
@pytest.mark.parametrize("where", NOWHERE)
def test_what_is_made_of_a_brought_file_and_leads_nowhere_is_a_black_box(inspect, where, brought):
    body, reason = NOWHERE[where]
    data = model(body, half=0.5, few=0.01, corner=CORNER)
    made, seen = inspect(data, brought=brought, of_brought=not brought)

    assert made["no_twin"].decode().startswith("ONNX file ")
    assert reason in made["no_twin"].decode()
    assert seen["no_twin"] == made["no_twin"].decode()
    assert seen["twin_parity"] is None


@pytest.mark.parametrize("where", NOWHERE)
def test_an_export_of_ours_whose_gradients_lead_nowhere_ends_the_run(inspect, where):
    body, reason = NOWHERE[where]
    found = reason.removeprefix("no twin of it: ")
    with pytest.raises(NumericsError, match=rf"^theirs: inspect: .*{found}") as error:
        inspect(model(body, half=0.5, few=0.01, corner=CORNER), brought=False)
    assert "\n" not in str(error.value)


def test_a_file_that_divides_zeros_by_their_length_has_a_twin(inspect):
    """As ONNX Runtime has it, zeros stay zeros: columns of digits are black."""
    made, seen = inspect(model(LINEAR.replace("Abs", "LpNormalization<axis = 2>")))
    assert "no_twin" not in made
    assert seen["twin_parity"]["agreement"] == 1


def test_what_ships_is_right_only_where_it_says_one_class(inspect):
    """A Sigmoid that saturates says several; what it reads would be right everywhere."""
    data = model(
        "f = Flatten(images) z = Gemm(f, weight, large) logits = Sigmoid(z)", large=[11] * 10
    )
    _, seen = inspect(data)
    x = digits(None).train.first(300).floats().numpy()
    answers = start(data, "bare", 1).run(None, {"images": x})[0]
    alone = (answers == answers.max(1, keepdims=True)).sum(1) == 1

    assert 10 < alone.sum() < 290
    assert seen["correct"] == alone.tolist()
    assert seen["predictions"] == answers.argmax(1).tolist()


ROUNDED = (
    "q = QuantizeLinear(images, scale, zero) d = DequantizeLinear(q, scale, zero) "
    "e = Sub(d, images) f = Flatten(e) r = MatMul(f, weight) "
)
ERRORS = {
    "alone": ("logits = Identity(r)", "its gradients are zero for all of 300 images"),
    "beside little else": (
        "g = Flatten(images) l = Gemm(g, weight, bias) s = Mul(l, small) logits = Add(r, s)",
        "of the 300 images that the file gets right keep their label, expected 50%",
    ),
}


@pytest.mark.parametrize("errors", ERRORS)
def test_a_file_that_is_what_its_rounding_makes_it_has_no_float_form(inspect, errors):
    """Without it, it says the same of every image, or of most the wrong thing."""
    rest, reason = ERRORS[errors]
    made, seen = inspect(model(ROUNDED + rest, scale=0.25, zero=1, small=1e-3))

    assert "float_form" not in made
    assert seen["float_form"].startswith("ONNX file ")
    assert ": no float form of it: " in seen["float_form"]
    assert seen["float_form"].endswith(reason)
    assert "\n" not in seen["float_form"]


def test_a_file_that_rounds_finely_has_a_float_form(inspect):
    fine = LINEAR.replace("a = Abs", "q = QuantizeLinear").replace("s)", "s, scale, zero)", 1)
    made, seen = inspect(
        model(
            fine.replace("f = ", "a = DequantizeLinear(q, scale, zero) f = "), scale=1 / 255, zero=0
        )
    )
    assert "float_form" in made
    assert "of the 300 images that the file gets right the same label" in seen["float_form"]


def test_a_float_form_that_cannot_be_run_is_none_and_the_run_goes_on(inspect, monkeypatch):
    def one_at_a_time(x):
        if len(x) > 1:
            raise RuntimeError("one image\nat a time")
        return x

    monkeypatch.setitem(OPERATORS, "Abs", one_at_a_time)
    body = LINEAR.replace("images", "read")
    rounded = "q = QuantizeLinear(images, scale, zero) read = DequantizeLinear(q, scale, zero)"
    _, seen = inspect(model(f"{rounded} {body}", scale=1 / 255, zero=0))

    assert "no float form of it" in seen["float_form"]
    assert "\n" not in seen["float_form"]
