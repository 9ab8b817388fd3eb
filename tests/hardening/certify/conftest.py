import numpy as np
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from hardening.data import Labelled


class Files:
    """ONNX files of a few nodes, without the exporter's seconds."""

    @staticmethod
    def build(shape, classes, nodes, **constants):
        """Bytes of `nodes` (operator, inputs, output, attributes) from `input` to `logits`."""
        graph = helper.make_graph(
            [
                helper.make_node(operator, inputs.split(), output.split(), **attributes)
                for operator, inputs, output, attributes in nodes
            ],
            "net",
            [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", *shape])],
            [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", classes])],
            [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
        )
        opset = [helper.make_opsetid("", 20)]
        return helper.make_model(graph, opset_imports=opset, ir_version=9).SerializeToString()

    @classmethod
    def linear(cls, weight, bias, shape):
        """Flatten and Gemm."""
        nodes = [
            ("Flatten", "input", "flat", {"axis": 1}),
            ("Gemm", "flat weight bias", "logits", {"transB": 1}),
        ]
        return cls.build(shape, len(weight), nodes, weight=weight.numpy(), bias=bias.numpy())

    @classmethod
    def residual(cls, seed=0, scale=1.0):
        """Normalisation, convolutions, a shortcut, batch norm, both pools, dynamic reshape."""
        rng = np.random.default_rng(seed)

        def draw(*size):
            return (rng.normal(size=size) * scale / np.sqrt(np.prod(size[1:]))).astype("float32")

        nodes = [
            ("Sub", "input mean", "centred", {}),
            ("Div", "centred deviation", "normal", {}),
            ("Conv", "normal w1 b1", "c1", {"pads": [1, 1, 1, 1]}),
            ("Relu", "c1", "r1", {}),
            ("Conv", "r1 w2", "c2", {"pads": [1, 1, 1, 1]}),
            ("BatchNormalization", "c2 scale shift average variance", "n2", {}),
            ("Add", "n2 r1", "sum", {}),
            ("LeakyRelu", "sum", "r2", {"alpha": 0.1}),
            ("MaxPool", "r2", "pooled", {"kernel_shape": [2, 2], "strides": [2, 2]}),
            ("GlobalAveragePool", "pooled", "mean4", {}),
            ("Shape", "mean4", "sizes", {}),
            ("Gather", "sizes first", "batch1", {}),
            ("Concat", "batch1 rest", "target", {"axis": 0}),
            ("Reshape", "mean4 target", "features", {}),
            ("Gemm", "features w3 b3", "logits", {"transB": 1}),
        ]
        return cls.build(
            (2, 6, 6),
            3,
            nodes,
            mean=np.full((1, 2, 1, 1), 0.45, "float32"),
            deviation=np.full((1, 2, 1, 1), 0.25, "float32"),
            w1=draw(4, 2, 3, 3),
            b1=draw(4),
            w2=draw(4, 4, 3, 3),
            scale=draw(4),
            shift=draw(4),
            average=draw(4),
            variance=np.abs(draw(4)) + 0.5,
            first=np.array([0], "int64"),
            rest=np.array([4], "int64"),
            w3=10 * draw(3, 4),
            b3=draw(3),
        )

    @classmethod
    def quantized(cls):
        """A linear file whose activations are rounded to eight bits."""
        nodes = [
            ("QuantizeLinear", "input step zero", "bytes", {}),
            ("DequantizeLinear", "bytes step zero", "floats", {}),
            ("Flatten", "floats", "flat", {}),
            ("Gemm", "flat weight", "logits", {"transB": 1}),
        ]
        return cls.build(
            (1, 2, 2),
            2,
            nodes,
            step=np.float32(1 / 255),
            zero=np.uint8(0),
            weight=np.array([[1, 1, 1, 1], [-1, 0, 0, 0]], "float32"),
        )


@pytest.fixture
def files():
    return Files


@pytest.fixture
def rng():
    return torch.Generator().manual_seed(0)


@pytest.fixture
def linear():
    """Weight, bias, mid-grey images and right labels of a linear model of three classes."""
    source = torch.Generator().manual_seed(2)
    weight = torch.randn(3, 12, generator=source)
    bias = -0.5 * weight.sum(1)
    x = 0.35 + 0.3 * torch.rand(150, 3, 2, 2, generator=source)
    y = (x.flatten(1) @ weight.t() + bias).argmax(1)
    return weight, bias, Labelled(x, y)
