"""Attack a file and believe nobody: every adversarial image is checked and run on the session.

Shapes: N images, n of them attacked, C channels, H x W pixels, K classes.
"""

import hashlib
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from hardening.attack import Attack, facts, stands
from hardening.data import Labelled
from hardening.deployed import Counted, unchanged
from hardening.errors import DataError, ModelError, NumericsError, ThreatViolation
from hardening.log import Log
from hardening.threat import Model, ThreatModel

BATCH = 64
"""Images a file sees at a time; larger batches leave a processor's cache and are slower."""

GROUP_BYTES = 16 * 2**20
"""Float images attacked in lockstep: bounds the memory whatever the number of images."""


class Outcome(NamedTuple):
    """What one attack did to the n images it met, at the places `attacked`; all on the CPU.

    `x_adv` (n, C, H, W) are its proposals, `fooled` (n,) whether they fool the session, `step` and
    `distance` (n,) when that first happened and how far it moved them. `unconfirmed` images fool
    the source at the end and not the session. Passes are totals.
    """

    attacked: Tensor
    x_adv: Tensor
    fooled: Tensor
    step: Tensor
    distance: Tensor
    unconfirmed: int
    forwards: int
    backwards: int

    @property
    def fell(self) -> Tensor:
        """Places of the images that fooled the session, (m,)."""
        return self.attacked[self.fooled]


def run_attack(
    name: str,
    attack: Attack,
    model: Model,
    session: Model,
    images: Labelled,
    standing: Tensor,
    threat: ThreatModel,
    seed: int,
    log: Log,
    budget: int = 0,
    leader: Model | None = None,
) -> Outcome:
    """Run `attack` on `model` against the images at the places `standing` (n,); `session` judges.

    Args:
        budget: Forward passes of an image that never falls, for the progress bar; 0 if unknown.
        leader: Whose word that an image has fallen is held against the session's; `model` or its
            twin when not given.

    Raises:
        ThreatViolation: An adversarial image lies outside the threat model.
        NumericsError: A logit is not finite.
        ModelFailure: The model raised, or changed itself.
        DataError: The images are not in [0, 1].
    """
    if not len(standing):
        nothing = torch.zeros(0)
        no_images = torch.zeros(0, *images.images.shape[1:])
        return Outcome(standing, no_images, nothing.bool(), nothing.long(), nothing, 0, 0, 0)
    parts = []
    believer: Model = getattr(model, "twin", model) if leader is None else leader
    fallen = unconfirmed = 0
    with unchanged(name, model), log.progress(name, len(standing) * budget, "pass") as advance:
        counted = Counted(model, lambda count: advance(count, f"{fallen} fallen"))
        for index, places in enumerate(_groups(attack, standing, images)):
            part = images.take(places.to(images.labels.device))
            x, y = _in_range(name, part.floats()), part.labels
            found = attack(counted, x, y, threat, generator(seed, name, index))
            x_adv = found.x_adv.detach()
            _check(name, threat, x, x_adv)
            fooled = ~all_stand(session, Labelled(x_adv, y))
            distance = threat.distance(x, x_adv).cpu()
            parts.append((x_adv.cpu(), fooled, found.step.cpu(), distance))
            unconfirmed += int((_believed(believer, x_adv, y).cpu() & ~fooled).sum())
            fallen += int(fooled.sum())
    x_adv, fooled, step, distance = (torch.cat(column) for column in zip(*parts, strict=True))
    passes = counted.forwards, counted.backwards
    return Outcome(standing, x_adv, fooled, step, distance, unconfirmed, *passes)


def joined(first: Outcome, second: Outcome) -> Outcome:
    """Two outcomes of one attack on different images, as one."""
    return Outcome(
        *(torch.cat(pair) for pair in zip(first[:5], second[:5], strict=True)),  # type: ignore[arg-type]
        *(a + b for a, b in zip(first[5:], second[5:], strict=True)),
    )


@torch.no_grad()
def all_logits(model: Model, images: Labelled) -> Tensor:
    """Logits (N, K) of all images, in order, on the CPU."""
    return torch.cat([finite(model(x)).cpu() for x, _ in images.batches(BATCH)])


@torch.no_grad()
def all_stand(model: Model, images: Labelled) -> Tensor:
    """Whether `model` classifies each image rightly, (N,) of bool, on the CPU.

    A model with its own way to judge (a random one asks itself often, a detector rejects) has it.
    """
    return torch.cat(
        [stands(model, x, finite(model(x)), y.to(x.device)).cpu() for x, y in images.batches(BATCH)]
    )


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
            f"{name}: got outputs that are probabilities (each row in [0, 1] with sum 1), expected "
            "logits: remove the softmax, or say `model.outputs: probabilities` of a file"
        )


def generator(seed: int, *parts: object) -> torch.Generator:
    """A generator whose stream depends on `seed` and on what it is for, and on nothing else."""
    text = "/".join(str(part) for part in (seed, *parts))
    number = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
    return torch.Generator().manual_seed(number % 2**63)


def _groups(attack: Attack, standing: Tensor, images: Labelled) -> Iterator[Tensor]:
    """The places in lockstep groups; all of them in one for an attack on the whole."""
    if facts(attack).whole:
        yield standing
        return
    size = max(BATCH, GROUP_BYTES // (4 * images.images[0].numel()))
    for start in range(0, len(standing), size):
        yield standing[start : start + size]


def _in_range(name: str, x: Tensor) -> Tensor:
    """`x` as it is, or a DataError: eps is in units of the range [0, 1]."""
    if len(x) and not (x.amin() >= 0 and x.amax() <= 1):
        got = f"[{float(x.amin()):.4g}, {float(x.amax()):.4g}]"
        raise DataError(f"{name}: got images in {got}, expected [0, 1]")
    return x


def _believed(leader: Model, x: Tensor, y: Tensor) -> Tensor:
    """Whether the model whose gradients lead the attack is fooled itself, (n,) bool."""
    answers = [
        finite(leader(part.detach().requires_grad_()).detach()).argmax(1) for part in x.split(BATCH)
    ]
    return torch.cat(answers) != y


def _check(name: str, threat: ThreatModel, x: Tensor, x_adv: Tensor) -> None:
    inside = threat.contains(x, x_adv)
    if not inside.all():
        worst = float(threat.distance(x, x_adv)[~inside].max())
        raise ThreatViolation(
            f"{name}: {int((~inside).sum())} of {len(x)} images lie outside {threat} "
            f"and the range [0, 1] (largest distance {worst:.6g})"
        )
