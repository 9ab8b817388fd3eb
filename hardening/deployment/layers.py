"""Where a twin and the session of its file part: the first tensor that differs.

Shapes: N images, C channels, H x W pixels.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import onnx
import torch
from onnx import TensorProto, helper
from torch import Tensor

from hardening.deployment.contract import as_logits, floored, prepare, softmax_tail
from hardening.deployment.parity import logits_of, prove
from hardening.deployment.plan import Step
from hardening.deployment.session import Session, start
from hardening.deployment.signature import filled, fixed_batch, graph_input
from hardening.deployment.twin import Twin
from hardening.deployment.untrusted import read_model
from hardening.errors import ParityError
from hardening.evidence import Parity

IMAGES = 8
"""Images looked into: those whose logits differ most."""


INTEGER = frozenset({"QuantizeLinear", "QGemm", "ConvInteger", "MatMulInteger"})
"""Operators, besides those called QLinear, whose results are integers."""


class Pair(NamedTuple):
    """One tensor in both forms, as float64."""

    node: onnx.NodeProto
    tensor: str
    ours: Tensor
    theirs: Tensor

    def differs(self, tolerance: float) -> bool:
        """Integers at all, floats by more than `tolerance` relative to the largest value or 1."""
        finite = self.theirs.nan_to_num(0.0, 0.0, 0.0)
        scale = max(1.0, float(finite.abs().max())) if finite.numel() else 1.0
        limit = 0.0 if _is_integer(self.node) else tolerance * scale
        return self.ours.shape != self.theirs.shape or self.distance > limit

    @property
    def distance(self) -> float:
        """The largest difference; infinite where one of them alone is no finite number."""
        same = (self.ours == self.theirs) | (self.ours.isnan() & self.theirs.isnan())
        gap = (self.ours - self.theirs).abs().masked_fill(same, 0).nan_to_num(torch.inf)
        return float(gap.max()) if gap.numel() else 0.0

    def __str__(self) -> str:
        what = f"{self.node.op_type} {self.node.name!r} (tensor {self.tensor!r})"
        if self.ours.shape != self.theirs.shape:
            return f"{what} has shape {tuple(self.ours.shape)}, expected {tuple(self.theirs.shape)}"
        count = int((self.ours != self.theirs).sum())
        return f"{what}: {count} of {self.ours.numel()} values differ, by up to {self.distance:.3g}"


def layers(twin: Twin, x: Tensor) -> list[Pair]:
    """Tensors that both forms hold for images `x` (N, C, H, W) in [0, 1], in the graph's order.

    Of a quantized file these are the integers: to ask the runtime for a float between them would
    change which kernels it uses. A file of a fixed batch is run batch after batch, the last one
    filled up as everywhere; what each makes of a tensor is put together along its first axis.
    """
    model = read_model(twin.data, twin.name)
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
    parts = list(filled(x, batch)) if (batch := fixed_batch(model)) else [x]
    ours = _joined(_ours(twin, steps, part) for part in parts)
    theirs = _joined(_theirs(model, twin, names, parts))
    for name in _answers(model.graph, twin) & theirs.keys():
        # From a last softmax on, the twin holds logarithms where the file holds probabilities.
        mine = ours[name]
        ours[name] = floored(mine) if twin.logarithms else as_logits(mine, twin.contract, twin.name)
        theirs[name] = as_logits(theirs[name], twin.contract, twin.name)
    return [Pair(makers[name], name, ours[name].double(), theirs[name].double()) for name in names]


def prove_twin(
    name: str, twin: Twin, session: Session, x: Tensor, *, tolerance: float = 1e-4
) -> Parity:
    """`parity.prove` of a twin and the session of its file, on images `x` (N, C, H, W).

    Raises:
        ParityError: They differ; the text names the first node whose result does.
    """
    try:
        return prove(name, twin, session.logits, x, tolerance=tolerance)
    except ParityError as error:
        raise ParityError(f"{error}; {_first(twin, session, x, tolerance)}") from error


def _answers(graph: onnx.GraphProto, twin: Twin) -> set[str]:
    """Tensors that are answers as the contract says; what a last Sigmoid reads are logits."""
    if twin.raw:
        return set()
    return softmax_tail(graph, twin.output) if twin.logarithms else {twin.output}


@torch.no_grad()
def _first(twin: Twin, session: Session, x: Tensor, tolerance: float) -> str:
    ours, theirs = logits_of(twin, x), logits_of(session.logits, x)
    distance = torch.zeros(len(x))
    if ours.shape == theirs.shape:
        distance = (ours - theirs).abs().amax(1).nan_to_num(torch.inf)
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
    model: onnx.ModelProto, twin: Twin, wanted: Sequence[str], parts: Iterable[Tensor]
) -> Iterable[dict[str, Tensor]]:
    known = {value.name for value in model.graph.output}
    model.graph.output.extend(
        helper.make_empty_tensor_value_info(key) for key in wanted if key not in known
    )
    session = start(model.SerializeToString(), twin.name, 1)
    for part in parts:
        fed = prepare(part.cpu().float(), twin.contract).numpy()
        answers = session.run(list(wanted), {graph_input(model.graph).name: fed})
        yield dict(zip(wanted, map(torch.from_numpy, answers), strict=True))


def _joined(parts: Iterable[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The tensors of several batches as one each."""
    first, *others = parts
    return {
        name: torch.cat([torch.atleast_1d(part[name]) for part in (first, *others)])
        if others
        else value
        for name, value in first.items()
    }
