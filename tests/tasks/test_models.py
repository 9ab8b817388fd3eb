"""Steps on models: what is exported computes what the module computes."""

import json

import numpy as np
import onnx
import torch
from onnx import numpy_helper

from hardening.data import Labelled, TrainingData
from tasks.models import export_file
from tasks.step import Run
from tasks.store import open_store


def saturated():
    """An ONNX file whose last Sigmoid gives 1 for most classes."""
    made = onnx.parser.parse_model(
        """<ir_version: 10, opset_import: ["" : 20]>
        g (float[batch,1,4,4] images) => (float[batch,3] answers) {
            f = Flatten(images) z = MatMul(f, weight) answers = Sigmoid(z) }"""
    )
    weight = 50 * np.random.default_rng(0).normal(size=(16, 3)).astype("f")
    made.graph.initializer.append(numpy_helper.from_array(weight, "weight"))
    return made.SerializeToString()


def test_a_twin_that_ends_in_a_saturated_sigmoid_is_exported_as_it_is(tmp_path):
    store = open_store(tmp_path.as_uri())
    images = Labelled(torch.randint(0, 256, (40, 1, 4, 4), dtype=torch.uint8), torch.arange(40) % 3)
    training = TrainingData(images, images.take(torch.arange(40)), ("a", "b", "c"))
    run = Run(store, "key", "theirs: export")

    made = export_file.function(run, store.put(saturated()), store.put(training.to_bytes()))

    assert json.loads(made["parity"])["agreement"] == 1
