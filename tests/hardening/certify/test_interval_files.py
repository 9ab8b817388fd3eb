"""Which files have interval bounds, and that what is around the logits does not change them."""

import numpy as np
import onnx
import pytest
import torch

from hardening.data import Labelled
from hardening.errors import ModelError


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


@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("last", ["Identity", "Softmax"])
def test_a_file_of_a_fixed_batch_has_the_certificate_of_one_of_any(
    files, certify, linear, batch, last
):
    """150 images are no multiple of 4: the last batch is filled up."""
    weight, bias, images = linear
    constants = {"weight": weight.numpy(), "bias": bias.numpy()}

    def built(rows):
        nodes = [
            ("Reshape", "input size", "flat", {}),
            ("Gemm", "flat weight bias", "rows", {"transB": 1}),
            (last, "rows", "logits", {}),
        ]
        return files.build((3, 2, 2), 3, nodes, **constants, size=np.array([rows, 12]))

    model = onnx.load_model_from_string(built(batch))
    for end in (*model.graph.input, *model.graph.output):
        end.type.tensor_type.shape.dim[0].dim_value = batch
    fixed = certify(model.SerializeToString(), images, 0.02)

    assert 0 < sum(fixed.certified) < len(images)
    assert fixed.certified == certify(built(-1), images, 0.02).certified
