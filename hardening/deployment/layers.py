"""Where a twin and the session of its file part: the first tensor that differs.

Shapes: N images, C channels, H x W pixels.
"""

from collections.abc import Sequence
from typing import NamedTuple

import onnx
import torch
from onnx import TensorProto, helper
from torch import Tensor

from hardening.deployment.contract import Contract
from hardening.deployment.parity import prove
from hardening.deployment.plan import Step
from hardening.deployment.session import Session, start
from hardening.deployment.signature import fixed_batch, graph_input
from hardening.deployment.twin import Twin
from hardening.errors import ParityError
from hardening.evidence import Parity

IMAGES = 8
"""Images looked into: those whose logits differ most."""


INTEGER = frozenset({"QuantizeLinear", "QGemm", "ConvInteger", "MatMulInteger"})
"""Operators, besides those called QLinear, whose results are integers."""


class Layer(NamedTuple):
    """One tensor in both forms, as float64."""

    node: onnx.NodeProto
    tensor: str
    ours: Tensor
    theirs: Tensor

    def differs(self, tolerance: float) -> bool:
        """Integers at all, floats by more than `tolerance` relative to the largest value or 1."""
        scale = max(1.0, float(self.theirs.abs().max())) if self.theirs.numel() else 1.0
        limit = 0.0 if _is_integer(self.node) else tolerance * scale
        return self.ours.shape != self.theirs.shape or self.distance > limit

    @property
    def distance(self) -> float:
        """The largest difference."""
        return float((self.ours - self.theirs).abs().max()) if self.ours.numel() else 0.0

    def __str__(self) -> str:
        what = f"{self.node.op_type} {self.node.name!r} (tensor {self.tensor!r})"
        if self.ours.shape != self.theirs.shape:
            return f"{what} has shape {tuple(self.ours.shape)}, expected {tuple(self.theirs.shape)}"
        count = int((self.ours != self.theirs).sum())
        return f"{what}: {count} of {self.ours.numel()} values differ, by up to {self.distance:.3g}"


def layers(twin: Twin, x: Tensor) -> list[Layer]:
    """Tensors that both forms hold for images `x` (N, C, H, W), in the order of the graph.

    Of a quantized file these are the integers: to ask the runtime for a float between them would
    change which kernels it uses.
    """
    model = onnx.load_model_from_string(twin.data)
    makers = {name: node for node in model.graph.node for name in node.output}
    steps = [step for step in twin.steps if isinstance(step, Step)]
    made = [name for step in steps for name in step.outputs if name in makers]
    signed = {t.name for t in model.graph.initializer if t.data_type == TensorProto.INT8}
    # Signed activations that are asked for stay signed: see `unsigned`.
    integers = [
        name
        for name in made
        if _is_integer(makers[name])
        and not (makers[name].op_type == "QuantizeLinear" and signed & {*makers[name].input})
    ]
    names = [*(integers or made), twin.output]
    names = list(dict.fromkeys(names))
    ours, theirs = _ours(twin, steps, x), _theirs(model, twin.name, names, x)
    return [Layer(makers[name], name, ours[name].double(), theirs[name].double()) for name in names]


def prove_twin(
    name: str, twin: Twin, session: Session, x: Tensor, *, tolerance: float = 1e-4
) -> Parity:
    """`parity.prove` of a twin and the session of its file, on images `x` (N, C, H, W).

    Raises:
        ParityError: They differ; of a file that takes any number of NCHW images in [0, 1] it names
            the first node whose result does.
    """
    try:
        return prove(name, twin, session, x, tolerance=tolerance)
    except ParityError as error:
        if twin.contract != Contract() or fixed_batch(onnx.load_model_from_string(twin.data)):
            raise
        raise ParityError(f"{error}; {_first(twin, session, x, tolerance)}") from error


@torch.no_grad()
def _first(twin: Twin, session: Session, x: Tensor, tolerance: float) -> str:
    distance = (twin(x).cpu() - session(x)).abs().amax(1).nan_to_num(torch.inf)
    worst = x[distance.topk(min(IMAGES, len(x))).indices.to(x.device)]
    found = (layer for layer in layers(twin, worst) if layer.differs(tolerance))
    layer = next(found, None)
    return f"first {layer}" if layer else "no single node differs when its result is asked for"


def _is_integer(node: onnx.NodeProto) -> bool:
    return node.op_type in INTEGER or node.op_type.startswith("QLinear")


@torch.no_grad()
def _ours(twin: Twin, steps: Sequence[Step], x: Tensor) -> dict[str, Tensor]:
    seen: dict[str, Tensor] = {}
    hooks = [
        step.register_forward_hook(
            lambda module, _, outputs: seen.update(zip(module.outputs, outputs, strict=False))
        )
        for step in steps
    ]
    try:
        twin(x)
    finally:
        for hook in hooks:
            hook.remove()
    return {name: value.cpu() for name, value in seen.items()}


def _theirs(
    model: onnx.ModelProto, name: str, wanted: Sequence[str], x: Tensor
) -> dict[str, Tensor]:
    known = {value.name for value in model.graph.output}
    model.graph.output.extend(
        helper.make_empty_tensor_value_info(key) for key in wanted if key not in known
    )
    session = start(model.SerializeToString(), name, 1)
    given = {graph_input(model.graph).name: x.cpu().float().numpy()}
    return dict(zip(wanted, map(torch.from_numpy, session.run(list(wanted), given)), strict=True))
