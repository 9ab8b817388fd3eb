"""Interval bound propagation through the graph of an ONNX file, https://arxiv.org/abs/1810.12715.

Shapes: N images, B of them at a time, C channels, H x W pixels, K classes, n hidden features.
"""

import math

import onnx
import torch
from torch import Tensor

from hardening.certify.rules import Box, Value, bound, gamma, linear_parts, widened
from hardening.data import Labelled
from hardening.deployment.contract import (
    SOFTMAX,
    UNCHANGING,
    Contract,
    contract_of,
    last_squashing,
    prepare,
)
from hardening.deployment.graph import Graph, Node, read_graph
from hardening.deployment.shapes import batch_of, infer, sizes_of
from hardening.deployment.signature import (
    check_images,
    filled,
    fixed_batch,
    image_shape,
    name_of,
)
from hardening.deployment.untrusted import read_model
from hardening.errors import ModelError
from hardening.evidence import Certificate
from hardening.log import Log
from hardening.statistics import accuracy
from hardening.threat import ThreatModel

BATCH = 64
"""Images bounded together."""

WIDER = 4e-6
"""Relative excess over eps: more than any norm's own tolerance, so that the box holds its set."""


def interval(
    file: bytes,
    images: Labelled,
    threat: ThreatModel,
    _rng: torch.Generator,
    log: Log,
    /,
) -> Certificate:
    """Interval bound propagation, Gowal et al. 2018, https://arxiv.org/abs/1810.12715.

    Every operator is given the smallest and largest value of each of its inputs over the threat
    set, and bounds its results: W c + b and |W| r of centre c and radius r where it is linear, its
    values at both ends where it is monotone. An image is certified if every other class stays
    below its label's: if (W_y - W_k) h + b_y - b_k > 0 over the box of the features h that the
    last matrix product reads, or, without one, if the bounds of the logits part; a softmax behind
    them is left out, for it keeps their order; a Sigmoid is not: where it saturates, classes tie.
    Linf balls are boxes; other norms' balls are replaced by the box around them, which costs most
    of the bound. The box is cut by the pixel range.

    The bounds hold for the file in float32, whatever the order of its sums: each rule adds its
    operator's largest rounding error, and computes in float64. Providers that multiply in less
    than float32 (TF32) are not covered. Costs about two forward passes in float64 an image.
    Networks not trained for such bounds are certified at small eps or not at all.

    Raises:
        ModelError: The file is refused, is not float, or has an operator without a rule.
    """
    name = name_of(file)
    model = read_model(file, name)
    contract = contract_of(model, name)
    batch = batch_of(model, name)
    graph = _to_the_logits(model, name)
    box = ThreatModel(norm="linf", eps=threat.eps * (1 + WIDER))
    margins = []
    with log.progress("interval", len(images), "image") as advance:
        for x, y in images.batches(batch or BATCH):
            check_images(x, image_shape(model), name)
            (whole,) = filled(x.cpu(), batch or len(x))
            labels = torch.cat([y.cpu(), y.new_zeros(len(whole) - len(y), device="cpu")])
            margins.append(_margins(graph, contract, whole, labels, box, name)[: len(y)])
            advance(len(y))
    margin = torch.cat(margins)
    certified = [bool(value > 0) for value in margin]
    return Certificate(
        method="interval",
        subject="file",
        text=f"proven of the file's float32 arithmetic for every point of {threat}, "
        "by interval bound propagation; an image not certified may be robust all the same",
        norm=threat.norm,
        eps=threat.eps,
        certified=certified,
        abstained=[not proven for proven in certified],
        accuracy=accuracy(certified),
        radius_norm=threat.norm,
        radii=[threat.eps if proven else 0.0 for proven in certified],
        figures={"median lower bound of the margin": float(margin.median())},
    )


@torch.no_grad()
def _margins(
    graph: Graph, contract: Contract, x: Tensor, y: Tensor, threat: ThreatModel, name: str
) -> Tensor:
    """A lower bound of each label's logit minus the largest other one, (B,)."""
    lower, upper = (threat.project(x, torch.full_like(x, end)) for end in (0.0, 1.0))
    fed = _fed(Box(lower.double(), upper.double()), contract)
    values: dict[str, Value] = {"": None, graph.input: fed}
    for constant, tensor in graph.constants.items():
        values[constant] = tensor.double() if tensor.is_floating_point() else tensor
    try:
        for node in graph.nodes:
            if graph.output in values:
                break
            inputs = [values[source] for source in node.inputs]
            if graph.output in node.outputs and node.operator == "Gemm":
                return _elided(node, inputs, y)
            values.update(zip(node.outputs, _results(node, inputs), strict=False))
    except ModelError as error:
        raise ModelError(f"{name}: no interval bounds of it: {error}") from error
    logits = values[graph.output]
    if not isinstance(logits, Box):
        raise ModelError(f"{name}: the logits do not depend on the image")
    rows = torch.arange(len(y))
    gaps = logits.lower.flatten(1)[rows, y][:, None] - logits.upper.flatten(1)
    return _smallest(gaps, y)


def _to_the_logits(model: onnx.ModelProto, name: str) -> Graph:
    """The graph up to its logits: what only normalises or moves them keeps the classes' order."""
    output = model.graph.output[0]
    squashing = last_squashing(model.graph, output.name)
    if squashing is not None and _over_classes(squashing, model, name):
        output.name = squashing.input[0]
    makers = {name: node for node in model.graph.node for name in node.output}
    while output.name in makers and makers[output.name].op_type in UNCHANGING:
        output.name = makers[output.name].input[0]
    return read_graph(model)


def _over_classes(squashing: onnx.NodeProto, model: onnx.ModelProto, name: str) -> bool:
    """Whether it is a softmax that sums over the classes: over anything else it mixes images."""
    if squashing.op_type not in SOFTMAX:
        return False
    batch = fixed_batch(model) or 1
    shapes = {value.name: sizes_of(value) for value in infer(model, name, batch).graph.value_info}
    sizes = shapes.get(squashing.input[0]) or [1]
    axis = next((entry.i for entry in squashing.attribute if entry.name == "axis"), -1)
    return axis % len(sizes) > 0 and sizes[axis] * batch == math.prod(sizes)


def _fed(images: Box, contract: Contract) -> Box:
    """What the file is fed for a box of images, with the rounding errors of preparing them."""
    if contract == Contract():
        return images
    box = Box(*(prepare(end, contract) for end in images))
    offset = prepare(torch.zeros_like(images.lower), contract).abs()
    return widened(box, gamma(3) * (box.size + 2 * offset))


def _results(node: Node, inputs: list[Value]) -> tuple[Value, ...]:
    """What `node` writes; shapes of boxes are plain numbers, whatever is in the boxes."""
    if node.operator == "Shape":
        inputs = [value.lower if isinstance(value, Box) else value for value in inputs]
    if any(isinstance(value, Box) for value in inputs):
        return (bound(node, inputs),)
    known = {key: value for key, value in zip(node.inputs, inputs, strict=True) if key}
    return node.compute({key: value for key, value in known.items() if isinstance(value, Tensor)})


def _elided(node: Node, inputs: list[Value], y: Tensor) -> Tensor:
    """The same behind a last matrix product: differences of its rows, not of its bounds."""
    features = inputs[0]
    weight, bias = linear_parts(node, inputs)
    if not isinstance(features, Box):
        raise ModelError(f"operator {node.operator} with a constant input has no interval rule")
    biases = weight.new_zeros(len(weight)) if bias is None else bias.expand(len(weight))
    gaps = features.lower.new_empty(len(y), len(weight))
    for label in y.unique().tolist():
        of = y == label
        slopes, offsets = weight[label] - weight, biases[label] - biases
        centre = features.centre[of] @ slopes.t() + offsets
        gaps[of] = centre - features.radius[of] @ slopes.abs().t()
    error = gamma(weight.shape[1]) * (features.size @ weight.abs().t() + biases.abs())
    return _smallest(gaps - error - error.gather(1, y[:, None]), y)


def _smallest(gaps: Tensor, y: Tensor) -> Tensor:
    """The smallest of gaps (B, K) to other classes, (B,); minus infinity where one is no number."""
    others = gaps.scatter(1, y[:, None], float("inf"))
    return others.nan_to_num(nan=float("-inf"), posinf=float("inf")).amin(1)
