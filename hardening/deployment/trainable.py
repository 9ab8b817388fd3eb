"""Training the weights of an exported graph: what is trained is what ships.

Shapes: B images, C channels, H x W pixels, K classes.
"""

import numpy as np
import onnx
import torch
from onnx import TensorProto, numpy_helper
from torch import Tensor, nn
from torch.func import functional_call

from hardening.deployment.integer import WeightedSum
from hardening.deployment.plan import Step
from hardening.deployment.storage import packed
from hardening.deployment.trainable_layers import FloatLayer, IntegerLayer, find_weights
from hardening.deployment.twin import Twin
from hardening.deployment.untrusted import read_model
from hardening.errors import ModelError


class Trainable(nn.Module):
    """An ONNX file whose weights are float parameters, rounded in every pass as the file has them.

    Layers are Conv, Gemm and MatMul with stored weights, with and without bias. A quantized weight
    is rounded to steps of its largest value (straight-through backward); the ranges of activations
    stay as they were calibrated. `file` writes the same graph with the weights as they are now: it
    computes what this module computes, to the last bit where sums of integers are exact in float32.
    Weights that several layers read stay as they are.
    """

    def __init__(self, data: bytes, parent: bytes | None = None) -> None:
        """Take the weights of the file `data`.

        Args:
            parent: The float file it was quantized from: a weight that rounds to the file's is
                taken from there instead.

        Raises:
            ModelError: The bytes are refused, have no twin, or no layer with weights to train.
        """
        super().__init__()
        self.twin = Twin(data)
        self._model = read_model(data, self.twin.name)
        floats = {} if parent is None else _floats(read_model(parent, "float parent"))
        kernels = {
            step.outputs[0]: (f"{name}.compute", step.compute)
            for name, step in self.twin.named_modules()
            if isinstance(step, Step) and isinstance(step.compute, WeightedSum)
        }
        for _, kernel in kernels.values():
            kernel.fast = (
                None  # that one has its weights packed for the processor, once and for all
            )
        layers: list[nn.Module] = []
        for found in find_weights(self._model, floats):
            computed = [kernels[name] for name in found.results if name in kernels]
            if computed:
                layers.append(IntegerLayer(found, *computed[0]))
            elif self.twin.holds(found.weight_name):
                layers.append(FloatLayer(found, self.twin))
        if not layers:
            raise ModelError(f"{self.twin.name}: no layer with stored weights, expected some")
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, K) float32 of images (B, C, H, W) in [0, 1]."""
        values: dict[str, Tensor] = {}
        for layer in self.layers:
            values |= layer.in_the_twin()  # type: ignore[operator]
        logits: Tensor = functional_call(self.twin, values, (x,))
        return logits

    @torch.no_grad()
    def file(self) -> bytes:
        """ONNX bytes of the graph with the weights as they are now."""
        model = onnx.ModelProto()
        model.CopyFrom(self._model)
        tensors = {tensor.name: tensor for tensor in model.graph.initializer}
        for layer in self.layers:
            for name, values in layer.in_the_file().items():  # type: ignore[operator]
                _write(tensors[name], values.cpu().numpy())
        data = bytes(model.SerializeToString(deterministic=True))
        read_model(data, f"{self.twin.name}, trained")
        return data

    @torch.no_grad()
    def folded(self, parent: bytes) -> bytes:
        """The float file `parent` with the weights as they are now: to be quantized again.

        Raises:
            ModelError: A trained weight is not in that file by name and shape.
        """
        model = read_model(parent, "float parent")
        tensors = {tensor.name: tensor for tensor in model.graph.initializer}
        for layer in self.layers:
            for name, values in layer.in_the_parent().items():  # type: ignore[operator]
                if name not in tensors or tuple(tensors[name].dims) != tuple(values.shape):
                    raise ModelError(f"float parent: got no tensor {name!r}, expected the weights")
                _write(tensors[name], values.cpu().numpy())
        return bytes(model.SerializeToString(deterministic=True))


def _floats(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    stored = [t for t in model.graph.initializer if t.data_type == TensorProto.FLOAT]
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in stored}


def _write(tensor: TensorProto, values: np.ndarray) -> None:
    """Replace the values of a stored tensor; its name, type and shape stay."""
    values = values.reshape(tuple(tensor.dims))
    if tensor.data_type == TensorProto.INT4:
        tensor.CopyFrom(packed(values, tensor.name))
    else:
        kind = numpy_helper.to_array(tensor).dtype
        tensor.CopyFrom(numpy_helper.from_array(values.astype(kind), tensor.name))
