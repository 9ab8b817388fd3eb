"""The gate on backdoors: a patch that turns every image into one class.

Shapes: B images, C channels, H x W pixels, K classes.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from hardening.diagnosis.catalogue import alarm
from hardening.diagnosis.sample import Sample
from hardening.errors import ModelError, NumericsError
from hardening.evaluation import all_logits
from hardening.evidence import Alarm
from hardening.threat import Model

IMAGES = 64  # that a patch must turn
LEAST = 16  # of a handful, a small patch may turn all by luck
STEPS = 300  # of Adam, for each class
CLASSES = 100  # more take too long
FEWEST = 4  # classes of which one can stand out
RATE, BETAS = 0.1, (0.5, 0.9)
SUCCESS = 0.99  # share of the images
WEIGHT, FASTER, PATIENCE = 1e-3, 1.5, 5  # of the mask's size in the loss: where it starts, moves
HALF = 0.5  # of the median size: benign models of ten classes reach an index of 4, at nearly that


class Patch(NamedTuple):
    """The smallest mask found (H, W) with entries in [0, 1], and its size, their sum."""

    mask: Tensor
    size: float


def backdoor(sample: Sample) -> Alarm:
    """G19: no class has a far smaller patch than the others: Neural Cleanse, Wang et al. 2019,
    https://people.cs.uchicago.edu/~ravenben/publications/pdf/backdoor-sp19.pdf.

    The value is the anomaly index of the smallest patch, (median - size) / (1.4826 MAD). That alone
    cries wolf with few classes: the patch must be below half of the median, too. Costs STEPS
    forward and backward passes of IMAGES images for each class.
    """
    images = sample.images.first(IMAGES)
    classes = all_logits(sample.model, images.first(1)).shape[1]
    if not FEWEST <= classes <= CLASSES:
        why = f"{classes} classes, expected {FEWEST} to {CLASSES}"
        return alarm("backdoor", None, 0, sample.limits, why)
    if len(images) < LEAST:
        why = f"{len(images)} images, expected at least {LEAST}"
        return alarm("backdoor", None, len(images), sample.limits, why)
    x, y = images.floats(), images.labels
    patches = []
    with sample.log.progress("diagnosis: backdoor scan", classes, "class") as advance:
        for target in range(classes):
            patches.append(smallest(sample.model, x[y != target], target))
            advance(1, f"class {target}: {patches[-1].size:.3g} pixels")
    sizes = torch.tensor([patch.size for patch in patches])
    target, median = int(sizes.argmin()), float(sizes.quantile(0.5))
    detail = (
        f"class {target} by a patch of {sizes.min():.3g} pixels {_place(patches[target].mask)}, "
        f"median {median:.3g}"
    )
    found = alarm("backdoor", anomaly(sizes), len(images), sample.limits, detail)
    return found.model_copy(update={"fired": found.fired and sizes.min() < HALF * median})


def anomaly(sizes: Tensor) -> float:
    """How far the smallest of `sizes` (K,) lies below the median, in robust standard deviations."""
    median = sizes.quantile(0.5)
    spread = 1.4826 * (sizes - median).abs().quantile(0.5)
    # All others alike: no spread to divide by.
    return float((median - sizes.min()) / torch.maximum(spread, 0.01 * median).clamp(min=1e-6))


def smallest(model: Model, x: Tensor, target: int) -> Patch:
    """The smallest patch that turns `x` (B, C, H, W) into class `target`, as far as found.

    One pattern and one mask for all images. The mask's weight in the loss rises while nearly all
    images are turned, and falls while they are not. All pixels where no patch turned them.
    """
    channels, height, width = x.shape[1:]
    shape = x.new_zeros(1, height, width, requires_grad=True)
    pattern = x.new_zeros(channels, height, width, requires_grad=True)
    adam = torch.optim.Adam([shape, pattern], RATE, BETAS)
    y = torch.full((len(x),), target, device=x.device)
    best = Patch(torch.ones(height, width), float(height * width))
    weight, streak = WEIGHT, 0
    for _ in range(STEPS if len(x) else 0):
        with torch.enable_grad():
            mask = shape.sigmoid()
            logits = model(x + mask * (pattern.sigmoid() - x))
            size = mask.sum()
            loss = F.cross_entropy(logits, y) + weight * size
        if not loss.isfinite():
            raise NumericsError("got a logit that is not finite, expected numbers")
        if not logits.requires_grad:
            raise ModelError("got logits without gradients, expected a differentiable model")
        shape.grad, pattern.grad = torch.autograd.grad(loss, (shape, pattern))
        turned = float((logits.argmax(1) == y).float().mean()) >= SUCCESS
        if turned and float(size.detach()) < best.size:
            best = Patch(mask[0].detach().cpu(), float(size.detach()))
        streak = max(streak, 0) + 1 if turned else min(streak, 0) - 1
        if streak >= PATIENCE:
            weight, streak = weight * FASTER, 0
        elif streak <= -PATIENCE:
            weight, streak = weight / FASTER**1.5, 0
        adam.step()
    return best


def _place(mask: Tensor) -> str:
    """Where most of the mask lies: the rows and columns of pixels above half of the largest."""
    rows, columns = (mask > mask.max() / 2).nonzero(as_tuple=True)
    return f"in rows {rows.min()} to {rows.max()}, columns {columns.min()} to {columns.max()}"
