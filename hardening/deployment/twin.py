"""A module with gradients that computes what ONNX Runtime computes from the same bytes.

Shapes: B images, C channels, H x W pixels, K classes.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from hardening.deployment.contract import (
    SOFTMAX,
    as_logits,
    contract_of,
    floored,
    last_squashing,
    logits_at,
    prepare,
)
from hardening.deployment.graph import read_graph
from hardening.deployment.plan import Step, last_uses, plan
from hardening.deployment.shapes import batch_of
from hardening.deployment.signature import check_images, image_shape, in_batches, name_of
from hardening.deployment.truncation import truncations
from hardening.deployment.unsigned import unsigned
from hardening.deployment.untrusted import read_model
from hardening.errors import ModelError, NoTwin


class Twin(nn.Module):
    """The differentiable twin of an ONNX classifier, float or int8 (QDQ).

    Its logits equal those of the CPU session: to float rounding for float graphs, bit for bit for
    the integer kernels. Gradients pass every rounding and every saturation but a fused ReLU
    (BPDA, Athalye et al. 2018, https://arxiv.org/abs/1802.00420). Parity is measured, not assumed:
    see `parity.prove`. Of a file that ends in a softmax it gives the logarithms directly, where
    gradients are asked for without a floor: a saturated softmax hides nothing. Of one that ends in
    a Sigmoid it gives what that reads, as `Session.logits` does.

    Raises:
        ModelError: The bytes are refused by `read_model`.
        NoTwin: They hold an operator unknown to the twin.
    """

    data: bytes
    """The very bytes it was made from."""

    def __init__(self, data: bytes) -> None:
        super().__init__()
        self.name = name_of(data)
        self.data = data
        model = read_model(data, self.name)
        self.image_shape = image_shape(model)
        self.contract = contract_of(model, self.name)
        # Most files that say a fixed batch would take any: then there is no need to go slowly.
        self._batch = batch_of(model, self.name)
        with explained(self.name):
            last = model.graph.output[0]
            named, last.name = last.name, logits_at(model.graph, last.name)
            self.raw = last.name != named
            squashing = None if self.raw else last_squashing(model.graph, last.name)
            self.logarithms = (
                self.contract.outputs == "probabilities"
                and squashing is not None
                and squashing.op_type in SOFTMAX
            )
            if self.logarithms and squashing is not None:
                # Where the softmax itself saturates it has no gradient, and attacks would fail.
                squashing.op_type = "LogSoftmax"
            graph = truncations(unsigned(read_graph(model)))
            steps = plan(graph)
            if not steps:
                raise ModelError("the logits do not depend on the image")
            self.input, self.output = graph.input, graph.output
            self.steps = nn.ModuleList(steps)
            self._finished = last_uses(steps, graph)
            self._integers: dict[str, Tensor] = {}
            self._floats: dict[str, str] = {}
            used = {name for step in steps for name in step.inputs}
            for name in sorted(used & {*graph.constants}):
                self._keep(name, graph.constants[name])
            self.eval()
            # What only a run can tell is told now, not in the middle of an attack.
            if all(self.image_shape):
                with torch.no_grad():
                    self(torch.zeros(1, *self.image_shape))

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, K) float32 of images (B, C, H, W) in [0, 1]."""
        check_images(x, self.image_shape, self.name)
        return in_batches(self._logits, x, self._batch) if self._batch else self._logits(x)

    def _logits(self, x: Tensor) -> Tensor:
        answers = self._compute(prepare(x, self.contract))
        if self.raw:
            return answers.reshape(len(x), -1)
        if self.logarithms:
            # An attack needs more than the floor that the session's answers have: classes that tie
            # there have no order, and a loss of their differences no direction.
            return answers if x.requires_grad else floored(answers)
        return as_logits(answers, self.contract, self.name)

    def _compute(self, x: Tensor) -> Tensor:
        values: dict[str, Tensor] = {self.input: x, **self._integers}
        for name, buffer in self._floats.items():
            values[name] = getattr(self, buffer)
        for step, finished in zip(self.steps, self._finished, strict=True):
            assert isinstance(step, Step)
            inputs = [values[name] if name else None for name in step.inputs]
            values.update(zip(step.outputs, step(*inputs), strict=False))
            for name in finished:
                del values[name]
        return values[self.output]

    def holds(self, constant: str) -> bool:
        """Whether a constant of the graph, by its name, is a float that the twin computes with."""
        return constant in self._floats

    def buffer_of(self, constant: str) -> str:
        """The buffer that holds it."""
        return self._floats[constant]

    def _keep(self, name: str, value: Tensor) -> None:
        """Floats follow the module's device; integers describe shapes and stay on the CPU."""
        if value.is_floating_point():
            self._floats[name] = f"constant_{len(self._floats)}"
            self.register_buffer(self._floats[name], value, persistent=False)
        else:
            self._integers[name] = value


@contextmanager
def explained(name: str) -> Iterator[None]:
    """Name the file when its graph cannot be computed, whoever notices.

    Raises:
        NoTwin: Something raised what torch or an operator of ours raises.
    """
    try:
        yield
    except (RuntimeError, LookupError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())[:300].removeprefix(f"{name}: ")
        raise NoTwin(f"{name}: no twin of it: {reason}") from error
