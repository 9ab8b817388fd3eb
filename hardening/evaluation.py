"""Attack a file and believe nobody: every adversarial image is checked and run on the session.

Shapes: N images, B of them at a time, C channels, H x W pixels, K classes.
"""

import hashlib
from typing import NamedTuple

import torch
from torch import Tensor

from hardening.attack import Attack
from hardening.data import Labelled
from hardening.errors import ModelError, NumericsError, ThreatViolation
from hardening.log import Log
from hardening.threat import Model, ThreatModel

BATCH = 64
"""Images attacked together; larger batches leave a processor's cache and are slower."""


class Outcome(NamedTuple):
    """What one attack did to N images; all tensors are (N, ...), on the CPU.

    `survived` is the session's word. `stands_on_source` says which images the attacked model
    itself still gets right, `fooled_source` which it got right before the attack and not after.
    """

    survived: Tensor
    stands_on_source: Tensor
    fooled_source: Tensor
    x_adv: Tensor
    distance: Tensor
    forwards: int
    backwards: int

    @property
    def unconfirmed(self) -> int:
        """Images that fooled the attacked model and not the session."""
        return int((self.fooled_source & self.survived).sum())


class Deployed:
    """A file under attack: the session answers, its twin answers where gradients are asked for."""

    def __init__(self, session: Model, twin: Model) -> None:
        self.session, self.twin = session, twin

    def __call__(self, x: Tensor) -> Tensor:
        """Logits (B, K) of images (B, C, H, W)."""
        return self.twin(x) if x.requires_grad else self.session(x)


class Counted:
    """A model that counts the images it has seen, forward and backward."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.forwards = self.backwards = 0

    def __call__(self, x: Tensor) -> Tensor:
        """Logits (B, K) of images (B, C, H, W)."""
        self.forwards += len(x)
        logits = self.model(x)
        if logits.requires_grad:
            logits.register_hook(self._count)
        return logits

    def _count(self, gradient: Tensor) -> None:
        self.backwards += len(gradient)


def run_attack(
    name: str,
    attack: Attack,
    source: Model,
    session: Model,
    images: Labelled,
    threat: ThreatModel,
    seed: int,
    log: Log,
) -> Outcome:
    """Run `attack` on `source` against each image the session gets right; the session judges.

    Raises:
        ThreatViolation: An adversarial image lies outside the threat model.
        NumericsError: A logit is not finite.
    """
    counted = Counted(source)
    parts: list[tuple[Tensor, ...]] = []
    with log.progress(name, len(images), "image") as advance:
        fallen = 0
        for index, (x, y) in enumerate(images.batches(BATCH)):
            correct = predict(session, x) == y
            x_adv = x.clone()
            if correct.any():
                rng = generator(seed, name, index)
                x_adv[correct] = attack(counted, x[correct], y[correct], threat, rng).detach()
            _check(name, threat, x, x_adv)
            survived = correct & (predict(session, x_adv) == y)
            before, after = _believed(source, x) == y, _believed(source, x_adv) == y
            distance = threat.distance(x, x_adv)
            parts.append((survived, before & after, before & ~after, x_adv, distance))
            fallen += int((~survived).sum())
            advance(len(y), f"{fallen} fallen")
    joined = [torch.cat(column).cpu() for column in zip(*parts, strict=True)]
    survived, stands, fooled, x_adv, distance = joined
    passes = counted.forwards, counted.backwards
    return Outcome(survived, stands, fooled, x_adv, distance, *passes)


@torch.no_grad()
def predict(model: Model, x: Tensor) -> Tensor:
    """Predicted classes, (B,)."""
    return finite(model(x)).argmax(1)


@torch.no_grad()
def _believed(source: Model, x: Tensor) -> Tensor:
    """What the model whose gradients lead the attack predicts, (B,): the twin, not its session."""
    return finite(source(x.detach().requires_grad_())).argmax(1)


@torch.no_grad()
def all_logits(model: Model, images: Labelled) -> Tensor:
    """Logits (N, K) of all images, in order."""
    return torch.cat([finite(model(x)).cpu() for x, _ in images.batches(BATCH)])


def finite(logits: Tensor) -> Tensor:
    """`logits` as they are, or a NumericsError: a model that answers NaN is not robust."""
    if not logits.isfinite().all():
        bad = int((~logits.isfinite()).flatten(1).any(1).sum())
        raise NumericsError(f"logits: got NaN or infinity for {bad} of {len(logits)} images")
    return logits


def check_logits(name: str, logits: Tensor, classes: int) -> None:
    """Refuse outputs (N, K) that an attack would misread.

    Raises:
        ModelError: The number of classes is not the dataset's, or the rows are probabilities.
    """
    if logits.shape[1] != classes:
        got = logits.shape[1]
        raise ModelError(f"{name}: got {got} outputs, expected {classes}, the dataset's classes")
    in_range = bool((logits >= -1e-5).all() and (logits <= 1 + 1e-5).all())
    if in_range and bool(((logits.sum(1) - 1).abs() < 1e-4).all()):
        raise ModelError(
            f"{name}: got outputs that are probabilities (each row in [0, 1] with sum 1), "
            "expected logits: remove the softmax"
        )


def zero_gradients(model: Model, images: Labelled) -> float:
    """Share of images at which the gradient of the margin is exactly zero: a sign of masking."""
    zero = 0
    for x, y in images.batches(BATCH):
        inputs = x.clone().requires_grad_()
        with torch.enable_grad():
            logits = model(inputs)
            right = logits.gather(1, y[:, None]).squeeze(1)
            others = logits.scatter(1, y[:, None], float("-inf")).amax(1)
            (gradient,) = torch.autograd.grad((right - others).sum(), inputs)
        zero += int((gradient.flatten(1).abs().amax(1) == 0).sum())
    return zero / len(images)


def curve(
    attack: Attack,
    source: Model,
    session: Model,
    images: Labelled,
    threat: ThreatModel,
    factors: tuple[float, ...],
    seed: int,
    log: Log,
) -> Tensor:
    """The smallest of `factors` at which each image falls, (N,); infinity where none is enough.

    Factors multiply eps. Successes are carried upward: an image that fell at a smaller radius is
    not attacked again, and an image that is wrong already falls at 0.
    """
    falls_at = torch.full((len(images),), float("inf"))
    correct = all_logits(session, images).argmax(1) == images.labels.cpu()
    falls_at[~correct] = 0.0
    for factor in sorted(factors):
        standing = falls_at.isinf().nonzero().squeeze(1)
        if not len(standing):
            break
        scaled = threat.scaled(factor)
        name = f"eps {scaled.eps:.3g}"
        part = images.take(standing)
        outcome = run_attack(name, attack, source, session, part, scaled, seed, log)
        falls_at[standing[~outcome.survived]] = factor
    return falls_at


def generator(seed: int, *parts: object) -> torch.Generator:
    """A generator whose stream depends on `seed` and on what it is for, and on nothing else."""
    text = "/".join(str(part) for part in (seed, *parts))
    number = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
    return torch.Generator().manual_seed(number % 2**63)


def _check(name: str, threat: ThreatModel, x: Tensor, x_adv: Tensor) -> None:
    inside = threat.contains(x, x_adv)
    if not inside.all():
        worst = float(threat.distance(x, x_adv)[~inside].max())
        raise ThreatViolation(
            f"{name}: {int((~inside).sum())} of {len(x)} images lie outside {threat} "
            f"and the range [0, 1] (largest distance {worst:.6g})"
        )
