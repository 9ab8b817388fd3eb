"""Randomized smoothing of whatever classifies images, https://arxiv.org/abs/1902.02918.

Shapes: N images, C channels, H x W pixels, K classes.
"""

from collections.abc import Iterator, Sequence
from typing import Annotated

import torch
from pydantic import Field
from scipy.stats import norm as normal
from torch import Tensor

from hardening.balls import SLACK
from hardening.data import Labelled
from hardening.deployment.session import Session
from hardening.errors import ModelError, NumericsError
from hardening.evidence import Certificate
from hardening.log import Log, Progress
from hardening.statistics import accuracy, clopper_pearson
from hardening.threat import Model, ThreatModel

BATCH = 256
"""Noisy images a model sees at a time, of several images where needed."""

BLOCK = 64
"""Draws made at once: fixed, so that an image's noise does not depend on its neighbours."""

Count = Annotated[int, Field(ge=1)]
Sigma = Annotated[float, Field(gt=0)]
Alpha = Annotated[float, Field(gt=0, lt=0.5)]


def smoothing(
    file: bytes,
    images: Labelled,
    threat: ThreatModel,
    rng: torch.Generator,
    log: Log,
    /,
    *,
    sigma: Sigma = 0.25,
    n0: Count = 100,
    n: Count = 1000,
    alpha: Alpha = 0.001,
) -> Certificate:
    """Randomized smoothing, Cohen et al. 2019, https://arxiv.org/abs/1902.02918, of an ONNX file.

    This certifies the SMOOTHED classifier g(x) = the class that the file gives most often to
    x + sigma * N(0, I), not the file: g is robust only where it is what answers. See `certify`.

    Args:
        sigma: Standard deviation of the noise, pixel units; the file should be trained with it.
        n0: Noisy images that choose the class, per image.
        n: Noisy images that bound its probability, per image the choice got right; the largest
            radius that can be certified is sigma * Phi^-1(alpha^(1 / n)).
        alpha: Probability, per image, that the certificate is wrong.

    Raises:
        ModelError: The file is refused, does not take the images or does not return logits.
        NumericsError: A logit is not finite.
    """
    options = (sigma, n0, n, alpha)
    return certify(Session(file), images, threat, rng, log, *options)


def certify(
    model: Model,
    images: Labelled,
    threat: ThreatModel,
    rng: torch.Generator,
    log: Log,
    /,
    sigma: float,
    n0: int,
    n: int,
    alpha: float,
) -> Certificate:
    """Certify `model` smoothed: radius sigma * Phi^-1(p), p the lower Clopper-Pearson bound.

    p bounds, at level `alpha`, the probability of the class that a first vote chose. Where it is
    not above 1/2, the smoothed classifier abstains. An image is certified if the choice is its
    label and no point of the threat set is further away in L2 than the radius: L1 balls lie in the
    L2 ball of the same eps, Linf balls in one of eps * sqrt(d) and L0 balls in one of sqrt(eps)
    for d numbers in an image. A false certificate has probability `alpha` at most for each image.
    Costs n0 forward passes an image, and n more for each whose choice is its label.
    """
    streams = _streams(len(images), rng)
    x = images.floats()
    y = images.labels.cpu()
    with log.progress("smoothing", len(images) * (n0 + n), "forward") as advance:
        chosen = _most(_wins(model, x, streams, n0, sigma, advance))
        right = (chosen == y).nonzero()[:, 0].tolist()
        wins = _wins(model, x[right], [streams[i] for i in right], n, sigma, advance)
        advance((len(images) - len(right)) * n)
    hits = (wins == y[right][:, None]).sum(1).tolist()
    radii, abstained = [0.0] * len(images), (chosen < 0).tolist()
    for image, count in zip(right, hits, strict=True):
        radii[image] = radius(count, n, sigma, alpha)
        abstained[image] = radii[image] == 0
    needed = threat.reach(x.shape[1:].numel())
    certified = [found > needed * (1 + SLACK) for found in radii]
    largest = radius(n, n, sigma, alpha)
    return Certificate(
        method="smoothing",
        subject="smoothed classifier",
        text=_text(threat, needed, largest, sigma, alpha),
        norm=threat.norm,
        eps=threat.eps,
        certified=certified,
        abstained=abstained,
        accuracy=accuracy(certified),
        radius_norm="l2",
        radii=radii,
        figures={
            "sigma": sigma,
            "n0": n0,
            "n": n,
            "alpha": alpha,
            "L2 radius needed": needed,
            "largest radius possible": largest,
            "median radius": float(torch.tensor(radii).median()),
            "chosen rightly": len(right) / len(images),
        },
    )


def radius(hits: int, n: int, sigma: float, alpha: float) -> float:
    """Certified L2 radius of a class that got `hits` of `n` votes; 0 where it is to abstain."""
    lower, _ = clopper_pearson(hits, n, 1 - 2 * alpha)
    return sigma * float(normal.ppf(lower)) if lower > 0.5 else 0.0


def _text(threat: ThreatModel, needed: float, largest: float, sigma: float, alpha: float) -> str:
    text = (
        f"proven of the smoothed classifier (majority under noise of sigma {sigma:.4g}), not of "
        f"the file itself, for {threat}, which needs an L2 radius of {needed:.4g}; "
        f"each image's certificate is wrong with probability {alpha:.4g} at most"
    )
    if largest <= needed:
        text += f"; no radius above {largest:.4g} can be certified with so few draws"
    return text


def _streams(count: int, rng: torch.Generator) -> list[torch.Generator]:
    seeds = torch.randint(2**62, (count,), generator=rng, device=rng.device).tolist()
    return [torch.Generator().manual_seed(seed) for seed in seeds]


@torch.no_grad()
def _wins(
    model: Model,
    x: Tensor,
    streams: Sequence[torch.Generator],
    draws: int,
    sigma: float,
    advance: Progress,
) -> Tensor:
    """Which class wins at each of an image's noisy versions, (N, draws) on the CPU; -1 if some tie.

    Which of the classes that tie is the answer is up to whoever reads it: none gets the vote.
    """
    classes = [torch.zeros(0, dtype=torch.int64)]
    for points in _batches(x, streams, draws, sigma):
        logits = model(points)
        _check(logits, points)
        (first, second), (winner, _) = (found.unbind(1) for found in logits.topk(2))
        classes.append(winner.where(first > second, -1).cpu())
        advance(len(points))
    return torch.cat(classes).view(len(x), draws)


def _most(wins: Tensor) -> Tensor:
    """The class that got most of the votes (N, draws), (N,); -1 where none got any."""
    votes = torch.zeros(len(wins), int(wins.max()) + 2, dtype=torch.int64)
    votes.scatter_add_(1, wins + 1, torch.ones_like(wins))
    votes[:, 0] = 0
    return votes.argmax(1) - 1


def _batches(
    x: Tensor, streams: Sequence[torch.Generator], draws: int, sigma: float
) -> Iterator[Tensor]:
    """All noisy images in order, batches filled across images."""
    blocks: list[Tensor] = []
    for image, stream in zip(x, streams, strict=True):
        for start in range(0, draws, BLOCK):
            size = min(BLOCK, draws - start), *image.shape
            noise = torch.randn(size, generator=stream).to(image.device)
            blocks.append(image + sigma * noise)
            if sum(map(len, blocks)) >= BATCH:
                yield torch.cat(blocks)
                blocks = []
    if blocks:
        yield torch.cat(blocks)


def _check(logits: Tensor, points: Tensor) -> None:
    if logits.ndim != 2 or len(logits) != len(points) or logits.shape[1] < 2:
        raise ModelError(
            f"got logits of shape {tuple(logits.shape)} for {len(points)} images, "
            f"expected ({len(points)}, K) with K at least 2"
        )
    if not logits.isfinite().all():
        bad = int((~logits.isfinite()).any(1).sum())
        raise NumericsError(f"logits are not finite for {bad} of {len(points)} noisy images")
