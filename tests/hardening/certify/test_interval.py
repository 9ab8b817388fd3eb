"""Interval bounds are exact where they can be, and no attack ever crosses them."""

from itertools import pairwise

import pytest
import torch

from attacks.apgd import apgd
from attacks.pgd import pgd
from hardening.certify.interval import interval
from hardening.data import Labelled
from hardening.deployment.session import Session
from hardening.deployment.twin import Twin
from hardening.errors import ModelError
from hardening.log import Silent
from hardening.threat import ThreatModel


@pytest.fixture
def certify(rng):
    def run(file, images, eps, norm="linf"):
        return interval(file, images, ThreatModel(norm=norm, eps=eps), rng, Silent())

    return run


def distances(weight, bias, images):
    """Exact Linf distance of each image to the nearest other class of a linear model."""
    logits = images.images.flatten(1) @ weight.t() + bias
    y = images.labels
    gaps = logits.gather(1, y[:, None]) - logits
    slopes = (weight[y][:, None] - weight).abs().sum(-1)
    return (gaps / slopes).scatter(1, y[:, None], float("inf")).amin(1)


@pytest.mark.parametrize("eps", [0.01, 0.02, 0.04])
def test_a_linear_file_is_certified_exactly_up_to_its_margin(files, certify, linear, eps):
    weight, bias, images = linear
    true = distances(weight, bias, images)
    certificate = certify(files.linear(weight, bias, (3, 2, 2)), images, eps)
    clear = (true / eps - 1).abs() > 1e-3
    assert clear.sum() > 100
    assert 0.1 < certificate.accuracy.value < 0.98
    for proven, inside, sure in zip(certificate.certified, true > eps, clear, strict=True):
        assert proven == bool(inside) or not sure


def test_just_inside_the_margin_each_image_is_certified_and_just_outside_none(
    files, certify, linear
):
    weight, bias, images = linear
    file = files.linear(weight, bias, (3, 2, 2))
    true = distances(weight, bias, images)
    for i in true.gt(0.01).nonzero()[:12, 0].tolist():
        image = images.take(torch.tensor([i]))
        assert certify(file, image, 0.9995 * float(true[i])).certified == [True]
        assert certify(file, image, 1.0005 * float(true[i])).certified == [False]


def test_the_pixel_range_cuts_the_box(files, certify):
    """At black the adversary can only brighten, which raises the right logit here."""
    weight = torch.tensor([[1.0, 1.0], [0.0, 0.0]])
    file = files.linear(weight, torch.tensor([0.001, 0.0]), (1, 1, 2))
    black = Labelled(torch.zeros(1, 1, 1, 2), torch.tensor([0]))
    assert certify(file, black, 0.5).certified == [True]
    grey = Labelled(torch.full((1, 1, 1, 2), 0.5), torch.tensor([0]))
    assert certify(file, grey, 0.49).certified == [True]
    assert certify(file, grey, 0.51).certified == [True]
    lower = files.linear(-weight, torch.tensor([0.9, 0.0]), (1, 1, 2))
    assert certify(lower, black, 0.44).certified == [True]
    assert certify(lower, black, 0.46).certified == [False]


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("eps", [0.002, 0.01])
def test_no_attack_breaks_a_certified_image(files, certify, rng, seed, eps):
    file = files.residual(seed)
    twin, session = Twin(file), Session(file)
    x = torch.rand(60, 2, 6, 6, generator=rng)
    y = twin(x).argmax(1).detach()
    y[::10] = (y[::10] + 1) % 3
    images, threat = Labelled(x, y), ThreatModel(eps=eps)
    certified = torch.tensor(certify(file, images, eps).certified)
    assert 0 < certified.sum() < len(y)
    survived = torch.ones(len(y), dtype=torch.bool)
    for attack in (pgd, apgd):
        x_adv = attack(twin, x, y, threat, rng).x_adv
        survived &= session(x_adv).argmax(1) == y
    assert survived[certified].all()


@pytest.mark.parametrize("seed", range(4))
def test_no_corner_of_the_box_crosses_the_bound(files, certify, rng, seed):
    """Strong networks, far from small perturbations; random corners through the session."""
    file = files.residual(seed, scale=2.0)
    session = Session(file)
    x = torch.rand(20, 2, 6, 6, generator=rng)
    y = session(x).argmax(1)
    for eps in (0.0005, 0.005, 0.02):
        certified = torch.tensor(certify(file, Labelled(x, y), eps).certified)
        signs = torch.randint(0, 2, (50, *x.shape), generator=rng) * 2 - 1
        for corner in (x + eps * signs).clamp(0, 1):
            assert (session(corner).argmax(1) == y)[certified].all()


def test_an_image_that_is_wrong_already_is_not_certified(files, certify, linear):
    weight, bias, images = linear
    wrong = Labelled(images.images, (images.labels + 1) % 3)
    certificate = certify(files.linear(weight, bias, (3, 2, 2)), wrong, 1e-6)
    assert not any(certificate.certified)


def test_a_larger_set_certifies_no_other_image(files, certify, rng):
    file = files.residual()
    x = torch.rand(40, 2, 6, 6, generator=rng)
    images = Labelled(x, Session(file)(x).argmax(1))
    columns = [certify(file, images, eps).certified for eps in (1e-5, 0.002, 0.005, 0.02)]
    assert sum(columns[0]) > sum(columns[-1])
    for smaller, larger in pairwise(columns):
        assert all(a or not b for a, b in zip(smaller, larger, strict=True))


@pytest.mark.parametrize("norm", ["l2", "l1", "l0"])
def test_other_balls_are_replaced_by_the_box_around_them(files, certify, linear, norm):
    weight, bias, images = linear
    file = files.linear(weight, bias, (3, 2, 2))
    certificate = certify(file, images, 0.02, norm)
    assert certificate.certified == certify(file, images, 0.02).certified
    assert certificate.norm == certificate.radius_norm == norm


def test_what_rounding_could_undo_is_not_certified(files, certify):
    """The exact gap is 1, but a float32 sum may lose it among terms of 1e8."""
    weight = torch.tensor([[1e8, 1.0, -1e8], [0.0, 0.5, 0.0]])
    file = files.linear(weight, torch.zeros(2), (1, 1, 3))
    x = torch.tensor([1.0, 1.0, 1.0]).view(1, 1, 1, 3)
    certificate = certify(file, Labelled(x, torch.tensor([0])), 1e-12)
    assert certificate.certified == [False]


def test_what_overflows_is_not_certified(files, certify):
    """In float64 the gap is finite and large; the session computes infinity minus infinity."""
    nodes = [
        ("Flatten", "input", "flat", {}),
        ("Mul", "flat huge", "big", {}),
        ("Mul", "big huge", "bigger", {}),
        ("Gemm", "bigger weight", "logits", {"transB": 1}),
    ]
    weight = torch.tensor([[2.0, -1.0], [1.0, -1.0]]).numpy()
    huge = torch.tensor(1e30).numpy()
    file = files.build((1, 1, 2), 2, nodes, huge=huge, weight=weight)
    images = Labelled(torch.full((1, 1, 1, 2), 0.5), torch.tensor([0]))
    assert certify(file, images, 1e-3).certified == [False]


def test_images_are_certified_one_by_one_as_together(files, certify, rng):
    file = files.residual()
    x = torch.rand(70, 2, 6, 6, generator=rng)
    images = Labelled(x, Session(file)(x).argmax(1))
    together = certify(file, images, 0.002).certified
    assert 0 < sum(together) < 70
    for i in range(0, 70, 7):
        assert certify(file, images.take(torch.tensor([i])), 0.002).certified == [together[i]]


def test_a_head_without_gemm_is_bounded_by_its_logits(files, certify, linear):
    """Looser than the difference of its rows, but sound."""
    weight, bias, images = linear
    nodes = [
        ("Flatten", "input", "flat", {}),
        ("MatMul", "flat weight", "product", {}),
        ("Add", "product bias", "logits", {}),
    ]
    constants = {"weight": weight.t().contiguous().numpy(), "bias": bias.numpy()}
    plain = certify(files.build((3, 2, 2), 3, nodes, **constants), images, 0.02)
    elided = certify(files.linear(weight, bias, (3, 2, 2)), images, 0.02)
    assert 0 < sum(plain.certified) < sum(elided.certified)
    assert all(a or not b for a, b in zip(elided.certified, plain.certified, strict=True))


HEADS = {
    "Gemm": [("Gemm", "flat weight bias", "z", {"transB": 1})],
    "MatMul and Add": [("MatMul", "flat turned", "product", {}), ("Add", "product bias", "z", {})],
    "Conv": [("Conv", "input kernel bias", "z", {})],
    "Reshape": [
        ("Gemm", "flat weight bias", "rows", {"transB": 1}),
        ("Reshape", "rows column", "z", {}),
    ],
}
SQUASHINGS = {
    "softmax": [("Softmax", "z", "p", {"axis": 1})],
    "log-softmax": [("LogSoftmax", "z", "p", {"axis": 1})],
}


@pytest.mark.parametrize("squashing", SQUASHINGS)
@pytest.mark.parametrize("head", HEADS)
def test_what_squashes_the_logits_changes_no_certificate(files, certify, linear, head, squashing):
    """Behind every head; where there is no Gemm, bounds of the logits themselves."""
    weight, bias, images = linear
    constants = {
        "weight": weight.numpy(),
        "turned": weight.t().contiguous().numpy(),
        "kernel": weight.view(3, 3, 2, 2).numpy(),
        "bias": bias.numpy(),
        "column": torch.tensor([-1, 3, 1, 1]).numpy(),
        "row": torch.tensor([-1, 3]).numpy(),
    }
    start, end = ("Flatten", "input", "flat", {}), ("Reshape", "END row", "logits", {})

    def built(last, name):
        nodes = [start, *HEADS[head], *last, (end[0], end[1].replace("END", name), *end[2:])]
        return files.build((3, 2, 2), 3, nodes, **constants)

    bare = certify(built([], "z"), images, 0.01).certified
    assert 0 < sum(bare) < len(bare)
    assert certify(built(SQUASHINGS[squashing], "p"), images, 0.01).certified == bare
    if head in {"Gemm", "Reshape"}:
        assert certify(files.linear(weight, bias, (3, 2, 2)), images, 0.01).certified == bare


def test_a_softmax_over_something_else_than_the_classes_proves_nothing(files, certify, linear):
    """Over an axis of size 1 every class gets 1, whatever the logits say."""
    weight, bias, images = linear
    nodes = [
        ("Flatten", "input", "flat", {}),
        ("Gemm", "flat weight bias", "rows", {"transB": 1}),
        ("Unsqueeze", "rows last", "column", {}),
        ("Softmax", "column", "ones", {"axis": 2}),
        ("Squeeze", "ones last", "logits", {}),
    ]
    constants = {"weight": weight.numpy(), "bias": bias.numpy(), "last": torch.tensor([2]).numpy()}
    with pytest.raises(ModelError, match="operator Softmax has no interval rule"):
        certify(files.build((3, 2, 2), 3, nodes, **constants), images, 0.01)


def test_the_record_holds_what_was_proven(files, certify, linear):
    weight, bias, images = linear
    certificate = certify(files.linear(weight, bias, (3, 2, 2)), images, 0.02)
    assert certificate.subject == "file"
    assert certificate.accuracy.correct == sum(certificate.certified)
    assert certificate.abstained == [not proven for proven in certificate.certified]
    assert certificate.radii == [0.02 if proven else 0.0 for proven in certificate.certified]
    assert type(certificate).model_validate_json(certificate.model_dump_json()) == certificate


def test_an_int8_file_is_refused_by_its_operator(files, certify):
    images = Labelled(torch.zeros(1, 1, 2, 2), torch.tensor([0]))
    with pytest.raises(ModelError, match=r"ONNX file .*: .*QuantizeLinear has no interval rule"):
        certify(files.quantized(), images, 0.1)


@pytest.mark.parametrize(
    ("nodes", "named"),
    [
        ([("Softmax", "flat", "soft", {}), ("Relu", "soft", "logits", {})], "Softmax"),
        ([("Softmax", "flat", "logits", {"axis": 0})], "Softmax"),
        ([("Mul", "flat flat", "logits", {})], "Mul with two computed inputs"),
        ([("Div", "one flat", "logits", {})], "Div with a computed divisor"),
        ([("LeakyRelu", "flat", "logits", {"alpha": -0.5})], "LeakyRelu with a negative slope"),
        ([("Gemm", "flat flat", "logits", {"transB": 1})], "Gemm with a computed weight"),
    ],
)
def test_an_operator_without_a_rule_is_named(files, certify, nodes, named):
    one = torch.ones(1).numpy()
    nodes = [("Flatten", "input", "flat", {}), *nodes]
    file = files.build((1, 1, 2), 2 if "Gemm" not in named else "batch", nodes, one=one)
    images = Labelled(torch.zeros(2, 1, 1, 2), torch.tensor([0, 1]))
    with pytest.raises(ModelError, match=f"operator {named}"):
        certify(file, images, 0.1)


def test_images_of_another_shape_are_refused(files, certify):
    file = files.linear(torch.eye(2), torch.zeros(2), (1, 1, 2))
    images = Labelled(torch.zeros(1, 1, 2, 2), torch.tensor([0]))
    with pytest.raises(ModelError, match="got images of shape"):
        certify(file, images, 0.1)
