"""Adversarial training of the quantized graph, as the last link of a chain of defenses.

Shapes: B images, C channels, H x W pixels.
"""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from copy import deepcopy
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from defenses.adversarial_training import worst_case
from defenses.declaration import declares
from defenses.quantization import DUE, Bits, calibration
from defenses.scores import robust_accuracy
from defenses.training import Loop, fit
from hardening.data import TrainingData
from hardening.deployment.export import export
from hardening.deployment.quantize import Method, fold, quantize_int8
from hardening.deployment.storage import store_in_4_bits
from hardening.deployment.trainable import Trainable
from hardening.deployment.twin import Twin
from hardening.log import Checkpoint, Log, Progress, Relay
from hardening.randomness import draw_seed
from hardening.threat import ThreatModel

FINE_TUNING = Loop(epochs=3, learning_rate=1e-3, ramp=0)


@declares(
    mechanism="trains the quantized graph on PGD examples of its own",
    due=DUE,
    status="AT-BASED",
    passes=lambda params: params["rounds"] * params["loop"].passes(params["steps"] + 1),
    claim="training in the precision that ships wins back what rounding lost",
)
def quantization_aware(
    model: nn.Module,
    data: TrainingData,
    threat: ThreatModel,
    rng: torch.Generator,
    log: Log,
    /,
    *,
    bits: Bits = 8,
    calibration_images: Annotated[int, Field(ge=2)] = 256,
    method: Method = "minmax",
    steps: Annotated[int, Field(ge=1)] = 7,
    rounds: Annotated[int, Field(ge=1)] = 2,
    loop: Loop = FINE_TUNING,
) -> Twin:
    """Quantize the exported `model`, train the file on its own worst images, give back its twin.

    Weights are float parameters that every pass rounds as the file has them, gradients pass the
    rounding; in the end they are written into the same graph, so what was trained is what ships.
    Training moves activations, and a range once set would cut them off: each round sets the ranges
    anew on the float graph with the weights of the round before.

    Args:
        bits: 8 for weights and activations; 4 or 3 for weights alone, stored in 4.
        calibration_images: Training images that set the ranges of 8-bit activations.
        method: How a range is chosen from the activations seen; minmax clips nothing seen.
        steps: Of PGD, each 2.5 eps / steps long; a training step costs steps + 1 plain ones.
        rounds: How often ranges are set and `epochs` trained.
    """
    score = robust_accuracy(threat, rng)
    # A round that starts after a resumption draws what it would have drawn.
    seeds = [(draw_seed(rng), draw_seed(rng)) for _ in range(rounds)]
    kept = log.restore()
    if kept is None:
        channels, height, width = data.train.images.shape[1:]
        parent = fold(export(deepcopy(model).cpu().eval(), (channels, height, width)))
        first = 0
    else:
        parent, first = _bytes(kept, PARENT), int(kept.numbers[ROUND])
    for index in range(first, rounds):
        ranging, own = (torch.Generator(rng.device).manual_seed(seed) for seed in seeds[index])
        if kept is not None and index == first:
            quantized = _bytes(kept, QUANTIZED)
        elif bits == 8:
            seen = calibration(Twin(parent), data, threat, ranging, calibration_images)
            quantized = quantize_int8(parent, seen, method=method)
        else:
            quantized = store_in_4_bits(parent, bits)
        stage = _Round(log, index, loop.epochs, parent, quantized, kept if index == first else None)
        start = Trainable(quantized, parent)
        loss = worst_case(own, steps=steps)
        trained = fit(start, data, loss, score, own, stage, loop=loop, threat=threat)
        assert isinstance(trained, Trainable)
        parent, file = trained.cpu().folded(parent), trained.file()
    log.line(f"trained in {bits} bits, {rounds} rounds: {len(parent):,} -> {len(file):,} bytes")
    return Twin(file)


PARENT, QUANTIZED, ROUND = "round.parent", "round.quantized", "round"
"""What the checkpoints of a round carry beside the training's own state."""


class _Round(Relay):
    """The log of one round, whose checkpoints carry the files that the round started from."""

    def __init__(
        self,
        log: Log,
        index: int,
        epochs: int,
        parent: bytes,
        quantized: bytes,
        kept: Checkpoint | None,
    ) -> None:
        super().__init__(log)
        self.index, self.epochs, self.kept = index, epochs, kept
        self.files = {PARENT: _tensor(parent), QUANTIZED: _tensor(quantized)}

    def progress(self, what: str, total: int, unit: str) -> AbstractContextManager[Progress]:
        return self.log.progress(f"{what}, round {self.index + 1}", total, unit)

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        self.log.metrics(self.index * self.epochs + step, values)

    def save(self, checkpoint: Checkpoint) -> None:
        numbers = {**checkpoint.numbers, ROUND: self.index}
        self.log.save(Checkpoint({**checkpoint.tensors, **self.files}, numbers))

    def restore(self) -> Checkpoint | None:
        return self.kept


def _tensor(data: bytes) -> Tensor:
    return torch.frombuffer(bytearray(data), dtype=torch.uint8)


def _bytes(checkpoint: Checkpoint, name: str) -> bytes:
    return checkpoint.tensors[name].numpy().tobytes()
