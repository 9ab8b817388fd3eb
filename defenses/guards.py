"""Signs that a training has gone wrong, looked for after each epoch on validation images.

Shapes: B images, C channels, H x W pixels, K classes.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from defenses.attacked import attacked
from defenses.inner import worst
from defenses.scores import BATCH
from hardening.data import Labelled
from hardening.threat import ThreatModel

Guard = Callable[[nn.Module, Labelled, int], str]
"""Maps a model, validation images and their number of classes to what is wrong, or ""."""

PROBES = 128
"""Images that the search for catastrophic overfitting looks at."""

ALIGNED = 0.5
"""Least cosine of gradients at an image and beside it."""

GAP = 0.3
"""Most that accuracy under one step may be above that under ten."""


def collapse(model: nn.Module, validation: Labelled, classes: int) -> str:
    """How `model` predicts one class whatever it sees, or "" if it does not."""
    with attacked(model), torch.no_grad():
        guesses = torch.cat([model(x).argmax(1) for x, _ in validation.batches(BATCH)])
    accuracy = float((guesses == validation.labels).float().mean())
    # With unequal classes a constant may be right far more often than chance.
    constant = len(torch.unique(guesses)) == 1 < len(torch.unique(validation.labels))
    if accuracy >= 1 / classes + 0.05 and not constant:
        return ""
    return (
        f"training: collapsed to a constant predictor (clean validation accuracy {accuracy:.1%}): "
        "lower eps, a longer ramp, or fewer epochs at a lower learning rate"
    )


def overfitting(
    model: nn.Module, validation: Labelled, threat: ThreatModel, rng: torch.Generator
) -> str:
    """How `model` withstands one step of FGSM and no search, or "" if it does not.

    Each sign alone has false alarms: gradients of an unhardened model turn quickly, and an honest
    model at a large eps was seen 28 points apart. See https://arxiv.org/abs/2007.02617.
    """
    first = validation.first(PROBES)
    x, y = first.floats(), first.labels
    beside = threat.sample(x, rng)
    here, there = _gradient(model, x, y), _gradient(model, beside, y)
    cosine = float(F.cosine_similarity(here.flatten(1), there.flatten(1)).mean())
    if cosine >= ALIGNED:
        return ""
    x_step = threat.project(x, x + threat.eps * threat.ascend(here))
    x_adv = worst(model, x, y, beside, threat, steps=10)
    one, ten = _accuracy(model, x_step, y), _accuracy(model, x_adv, y)
    if one - ten <= GAP:
        return ""
    return (
        f"training: overfitted to its own attack (accuracy {one:.1%} after one step, {ten:.1%} "
        f"after ten, cosine of gradients {cosine:.2f}): a lower learning rate, or more steps"
    )


def _gradient(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    with attacked(model):
        x = x.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(F.cross_entropy(model(x), y, reduction="sum"), x)
    return gradient


def _accuracy(model: nn.Module, x: Tensor, y: Tensor) -> float:
    with attacked(model), torch.no_grad():
        return float((model(x).argmax(1) == y).float().mean())
