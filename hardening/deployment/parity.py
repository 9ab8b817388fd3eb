"""Whether two forms of one model (module, file, twin) compute the same logits.

Shapes: N images, C channels, H x W pixels, K classes.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from hardening.errors import ParityError
from hardening.evidence import Parity
from hardening.threat import Model

CHUNK = 64
"""Images per call; larger batches leave the processor's cache."""

BATCHES = (1, 2, 7)
"""Batch sizes at which a few images must give what they give in a large batch."""

FEW = 8
"""Those few images."""


def compare(first: Tensor, second: Tensor) -> Parity:
    """How far logits (N, K) of two forms are apart; finite and of one shape.

    An image is a near tie when the two top logits of `first` are no further apart than twice the
    largest difference; only near ties can be classified differently.
    """
    first, second = first.double(), second.double()
    largest = float((first - second).abs().max())
    top = first.topk(2, dim=1).values
    agree = first.argmax(1) == second.argmax(1)
    return Parity(
        images=len(first),
        max_difference=largest,
        scale=float(first.abs().max()),
        agreement=float(agree.double().mean()),
        near_ties=int((top[:, 0] - top[:, 1] <= 2 * largest).sum()),
    )


def together(proofs: Sequence[Parity]) -> Parity:
    """What was found on several sets of images, as of one; near ties are those of each set."""
    images = sum(proof.images for proof in proofs)
    return Parity(
        images=images,
        max_difference=max(proof.max_difference for proof in proofs),
        scale=max(proof.scale for proof in proofs),
        agreement=sum(proof.agreement * proof.images for proof in proofs) / images,
        near_ties=sum(proof.near_ties for proof in proofs),
    )


def prove(name: str, first: Model, second: Model, x: Tensor, *, tolerance: float = 1e-4) -> Parity:
    """Compare two forms of a model on images `x` (N, C, H, W), or raise.

    `first` must not depend on how images are batched, either: it is run on a few of them at batch
    sizes 1, 2, 7 and within all.

    Args:
        tolerance: Largest difference of logits, relative to the largest logit or 1.

    Raises:
        ParityError: Shapes differ, logits are not finite or further apart than the tolerance, or a
            decision that is not a near tie differs.
    """
    logits, others = logits_of(first, x), logits_of(second, x)
    if logits.shape != others.shape:
        raise ParityError(
            f"{name}: got logits {tuple(others.shape)}, expected {tuple(logits.shape)}"
        )
    _check_finite(name, logits, others)
    _check_batching(name, first, x, logits, tolerance)
    parity = compare(logits, others)
    limit = tolerance * max(1.0, parity.scale)
    differing = round((1 - parity.agreement) * parity.images)
    if parity.max_difference > limit or differing > parity.near_ties:
        raise ParityError(
            f"{name}: logits differ by {parity.max_difference:.3g}, expected at most {limit:.3g}; "
            f"{differing} of {parity.images} decisions differ, {parity.near_ties} are near ties"
        )
    return parity


def _check_finite(name: str, *forms: Tensor) -> None:
    for which, logits in zip(("first", "second"), forms, strict=True):
        bad = int((~logits.isfinite()).any(1).sum())
        if bad:
            raise ParityError(
                f"{name}: {bad} of {len(logits)} images get logits of the {which} form that are "
                "not finite"
            )


def _check_batching(name: str, model: Model, x: Tensor, logits: Tensor, tolerance: float) -> None:
    few = x[:FEW]
    limit = tolerance * max(1.0, float(logits.abs().max()))
    for batch in BATCHES:
        difference = float((logits_of(model, few, batch) - logits[:FEW]).abs().max())
        if difference > limit:
            raise ParityError(
                f"{name}: logits at batch size {batch} differ by {difference:.3g} from those in "
                f"a larger batch, expected at most {limit:.3g}"
            )


@torch.no_grad()
def logits_of(model: Model, x: Tensor, batch: int = CHUNK) -> Tensor:
    """Logits (N, K) of images `x` (N, C, H, W), on the CPU, `batch` images at a time."""
    return torch.cat([model(part).detach().float().cpu() for part in x.split(batch)])
