"""The shipped bytes as ONNX Runtime runs them.

Shapes: B images, C channels, H x W pixels, K classes.
"""

import hashlib
from collections import Counter
from collections.abc import Callable
from functools import partial

import onnx
import onnxruntime
import torch
from onnx import helper
from onnxruntime.capi import onnxruntime_pybind11_state as runtime
from torch import Tensor

from hardening.deployment.contract import as_logits, contract_of, logits_at, prepare
from hardening.deployment.providers import providers
from hardening.deployment.signature import (
    check_images,
    fixed_batch,
    graph_input,
    graph_output,
    graph_sha256,
    image_shape,
    in_batches,
    name_of,
)
from hardening.deployment.storage import precision, rounds
from hardening.deployment.untrusted import DOMAINS, read_model
from hardening.errors import ModelError
from hardening.evidence import File

CHUNK = 64
"""Most images per call of ONNX Runtime; larger batches leave a processor's cache and are slower.
As many as a twin is given at a time: what a file takes was tried with them."""

FAILURES = (
    runtime.Fail,
    runtime.InvalidArgument,
    runtime.InvalidGraph,
    runtime.InvalidProtobuf,
    runtime.NotImplemented,
    runtime.RuntimeException,
)
"""What ONNX Runtime raises of a file that it does not run."""


class Session:
    """A running ONNX file. Invariant: the bytes that were hashed are the bytes that run and decide.

    A last Sigmoid saturates. Of a file that ends in one, logits are what it reads
    (`contract.logits_at`), made to decide as its answers do: classes that these tie are tied. What
    it reads is asked of the same graph, running once more with that tensor as an output.
    """

    def __init__(self, data: bytes, *, threads: int = 0) -> None:
        """Check `data` and start it.

        Args:
            threads: Threads within an operator; 0 takes as many as torch does.

        Raises:
            ModelError: The bytes are refused by `read_model` or by ONNX Runtime.
        """
        self.data = data
        self.name = name_of(data)
        self.threads = threads or torch.get_num_threads()
        self._model = read_model(data, self.name)
        self._batch = fixed_batch(self._model)
        self.contract = contract_of(self._model, self.name)
        self.image_shape = image_shape(self._model)
        self._input = graph_input(self._model.graph).name
        self._output = graph_output(self._model).name
        self._session = start(data, self.name, self.threads)
        self._unsquashed = logits_at(self._model.graph, self._output)
        self._before = None
        if self._unsquashed != self._output:
            self._before = start(data + _output(self._unsquashed), self.name, self.threads)

    def __call__(self, x: Tensor) -> Tensor:
        """Logits (B, K) float32 on the CPU, of images (B, C, H, W) in [0, 1] on any device.

        Raises:
            ModelError: The file does not take images of this shape.
        """
        answers = self._in_parts(partial(self._run, self._session, self._output), x)
        if self._before is None:
            return as_logits(answers, self.contract, self.name)
        return _deciding(self.logits(x), answers)

    def logits(self, x: Tensor) -> Tensor:
        """What the twin computes: the same but for ties behind a last Sigmoid, (B, K).

        Raises:
            ModelError: The file does not take images of this shape.
        """
        if self._before is None:
            return self(x)
        run = partial(self._run, self._before, self._unsquashed)
        return self._in_parts(run, x).reshape(len(x), -1)

    def stands(
        self,
        points: Tensor,  # noqa: ARG002
        logits: Tensor,
        y: Tensor,
    ) -> Tensor:
        """Whether `logits` (B, K) at `points` (B, C, H, W) say `y` and nothing else, (B,) of bool.

        Which of the classes that tie is the answer is up to whoever reads it: none counts.
        """
        others = logits.scatter(1, y[:, None], -torch.inf)
        return logits.gather(1, y[:, None])[:, 0] > others.amax(1)

    def facts(self) -> File:
        """Identity of the bytes, and how they are run."""
        operators = Counter(node.op_type for node in self._model.graph.node)
        versions = [entry.version for entry in self._model.opset_import if entry.domain in DOMAINS]
        return File(
            sha256=hashlib.sha256(self.data).hexdigest(),
            graph_sha256=graph_sha256(self.data),
            bytes=len(self.data),
            precision=precision(self._model),
            rounds=rounds(self._model),
            opset=max(versions),
            operators=dict(sorted(operators.items())),
            providers=self._session.get_providers(),
            threads=self.threads,
            optimization="all",
        )

    def _in_parts(self, run: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        check_images(x, self.image_shape, self.name)
        x = x.detach().to("cpu", torch.float32)
        if self._batch:
            return in_batches(run, x, self._batch)
        return torch.cat([run(part) for part in x.split(CHUNK)])

    def _run(self, session: onnxruntime.InferenceSession, output: str, x: Tensor) -> Tensor:
        fed = prepare(x, self.contract).numpy()
        try:
            (found,) = session.run([output], {self._input: fed})
        except FAILURES as error:
            raise _refused(self.name, f"images {tuple(x.shape)}", error) from error
        return torch.from_numpy(found)


def _output(name: str) -> bytes:
    """Behind a file's bytes, an output more: protobuf messages in a row are one message."""
    further = onnx.GraphProto(output=[helper.make_empty_tensor_value_info(name)])
    return bytes(onnx.ModelProto(graph=further).SerializeToString())


def _deciding(logits: Tensor, answers: Tensor) -> Tensor:
    """`logits` (B, K) whose largest are the classes that `answers` (B, K) put first, and no other.

    Nothing changes where one class is first in both.
    """
    highest = logits.amax(1, keepdim=True)
    below = highest.nextafter(torch.full_like(highest, -torch.inf))
    return torch.where(answers == answers.amax(1, keepdim=True), highest, logits.minimum(below))


def start(data: bytes, name: str, threads: int) -> onnxruntime.InferenceSession:
    """A running session of checked `data`, optimized as everywhere; `name` is for errors.

    Raises:
        ModelError: ONNX Runtime refuses the bytes.
    """
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.use_deterministic_compute = True
    options.log_severity_level = 4  # fatal only: errors arrive as exceptions
    # Idle workers that spin would take the processor from torch, which works in turns with us.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return onnxruntime.InferenceSession(data, options, providers=list(providers()))
    except FAILURES as error:
        raise _refused(name, "it", error) from error


def _refused(name: str, what: str, error: Exception) -> ModelError:
    return ModelError(
        f"{name}: ONNX Runtime does not run {what}: {' '.join(str(error).split())[:300]}"
    )
