"""The gate on strength: the attack finds an adversarial point that is known to exist.

Shapes: B points, d features, like the images (C, H, W).
"""

from typing import NamedTuple

import torch
from torch import Tensor

from hardening.attack import Attack
from hardening.data import Labelled
from hardening.diagnosis.catalogue import alarm
from hardening.diagnosis.sample import Sample
from hardening.evaluation import BATCH, all_logits, run_attack
from hardening.evidence import Alarm
from hardening.log import Silent
from hardening.threat import Model, ThreatModel

PROBLEMS = 64  # fewer say nothing about a share of 5 %
INNER = 999  # points that must be told from the one on the border, and the image itself
INNER_RADIUS = 0.95  # in units of eps
CANDIDATES = 8  # border points tried until one can be told from the inner points
CLOSENESS = 0.999  # where the boundary lies between the inner points and the one on the border
RIDGE = 1e-4  # of the mean variance: features may be collinear


class Readout:
    """A two-class model: how far the features of a point lie beyond the threshold."""

    def __init__(self, features: Model, weight: Tensor, bias: float) -> None:
        """Read `features` (B, d) through `weight` (d,) and `bias`."""
        self._features, self._weight, self._bias = features, weight, bias
        self.draws = int(getattr(features, "draws", 1))

    def __call__(self, x: Tensor) -> Tensor:
        """Logits (B, 2)."""
        score = self._features(x) @ self._weight.to(x.device) + self._bias
        return torch.stack([-score / 2, score / 2], 1)


def unsolved(sample: Sample) -> Alarm:
    """G17: the binarisation test of Zimmermann et al. 2022, https://arxiv.org/abs/2206.13991.

    Around an image, points within 0.95 eps are one class and a point on the border at eps is the
    other; a linear head is fitted that tells them apart (Fisher's discriminant) and replaces the
    model's own. The border point is adversarial by construction, so an attack that is strong enough
    for this model finds an adversarial point. Costs about 1,000 forward passes and one attack a
    problem; a problem has a model of its own, so they are attacked one by one.
    """
    attack = sample.probes.apgd_margin
    built = solved = 0
    with sample.log.progress("diagnosis: binarisation test", PROBLEMS, "problem") as advance:
        for place, x in enumerate(sample.images.floats().split(1)):
            if built == PROBLEMS:
                break
            readout = _problem(sample.features, x, sample.threat, sample.rng(f"G17 {place}"))
            if readout is not None:
                built += 1
                solved += _solves(attack, readout, x, sample)
                advance(1, f"{solved} solved")
    if built < PROBLEMS:
        why = (
            f"{built} problems could be built of {len(sample.images)} images, {PROBLEMS} are needed"
        )
        return alarm("unsolved", None, built, sample.limits, why)
    share = (built - solved) / built
    return alarm("unsolved", share, built, sample.limits, f"{solved} of {built} solved")


def _solves(attack: Attack, readout: Readout, x: Tensor, sample: Sample) -> bool:
    clean, first = _unlabelled(x), torch.zeros(1, dtype=torch.long)
    outcome = run_attack(
        "G17", attack, readout, readout, clean, first, sample.threat, sample.seed, Silent()
    )
    return len(outcome.fell) > 0


def _problem(
    features: Model, x: Tensor, threat: ThreatModel, rng: torch.Generator
) -> Readout | None:
    """A head that tells one border point from the inner ones; None when no candidate allows it."""
    inner = _inner_features(features, x, threat.scaled(INNER_RADIUS), rng)
    many = x.expand(CANDIDATES, *x.shape[1:])
    steps = torch.randn(many.shape, generator=rng, device=rng.device).to(x)
    border = threat.project(many, many + threat.eps * threat.ascend(steps))
    for candidate in _features(features, border):
        fitted = _fit(inner, candidate)
        if fitted is not None:
            return Readout(features, *fitted)
    return None


class _Head(NamedTuple):
    weight: Tensor
    bias: float


def _fit(inner: Tensor, border: Tensor) -> _Head | None:
    """Fisher's linear discriminant, in units of the inner points' spread along it."""
    mean = inner.mean(0)
    centred = inner - mean
    covariance = centred.T @ centred / len(inner)
    covariance += RIDGE * covariance.diagonal().mean().clamp(min=1e-30) * torch.eye(len(mean))
    direction = torch.linalg.solve(covariance, border - mean)
    spread = (centred @ direction).square().mean().sqrt()
    if not spread > 0:
        return None
    weight = direction / spread
    highest, reached = (inner @ weight).max(), border @ weight
    if not reached > highest:
        return None
    threshold = highest + CLOSENESS * (reached - highest)
    return _Head(weight.float(), -float(threshold))


def _inner_features(
    features: Model, x: Tensor, threat: ThreatModel, rng: torch.Generator
) -> Tensor:
    """Features of the image and of points around it, (1 + INNER, d), a batch of them at a time."""
    parts = [_features(features, x)]
    for start in range(0, INNER, BATCH):
        many = x.expand(min(BATCH, INNER - start), *x.shape[1:])
        parts.append(_features(features, threat.sample(many, rng)))
    return torch.cat(parts)


def _features(features: Model, x: Tensor) -> Tensor:
    return all_logits(features, _unlabelled(x)).double()


def _unlabelled(x: Tensor) -> Labelled:
    """All of class 0, the inner points' class."""
    return Labelled(x, torch.zeros(len(x), dtype=torch.long, device=x.device))
