"""Interval bounds of a file that takes so many images at a time and no others."""

import numpy as np
import onnx
import pytest

from hardening.certify.interval import interval
from hardening.log import Silent
from hardening.threat import ThreatModel


@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("last", ["Identity", "Softmax"])
def test_a_file_of_a_fixed_batch_has_the_certificate_of_one_of_any(files, linear, rng, batch, last):
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
    fixed, free = (
        interval(file, images, ThreatModel(eps=0.02), rng, Silent()).certified
        for file in (model.SerializeToString(), built(-1))
    )

    assert 0 < sum(fixed) < len(images)
    assert fixed == free
