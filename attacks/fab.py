"""Fast adaptive boundary attack, targeted, https://arxiv.org/abs/1907.02044.

Shapes: b images, K classes; points are like the images.
"""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from attacks.closest import Closest
from attacks.gradient import differentiate, look
from attacks.hyperplane import onto
from attacks.losses import margin, rivals
from attacks.parameters import Count, Share
from hardening.attack import Found, describes
from hardening.balls import BALLS, Norm
from hardening.threat import Model, ThreatModel, per_image

FINAL_PASSES = 3  # the paper's, on the segment between an image and its best point


@describes("gradients", norms=("linf", "l2", "l1"), minimal=True)
def fab(
    model: Model,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    rng: torch.Generator,
    /,
    *,
    steps: Count = 100,
    targets: Count = 9,
    restarts: Count = 1,
    alpha_max: Share = 0.1,
    eta: Annotated[float, Field(ge=1)] = 1.05,
    beta: Share = 0.9,
) -> Found:
    """Project on the border's linear approximation, again and again, close to the image.

    The border with class t is the hyperplane gap + gradient . (z - point) = 0 for the gap between
    the logits of t and of the label. Both the point and the image are projected on it, within
    [0, 1]: point <- (1 - alpha)(point + eta * move) + alpha (image + eta * its move), where alpha
    is the first move's share of both lengths. A point that fools is first drawn towards the image:
    image + beta (point - image). Here the hyperplane is taken before that, where the pass that
    found the point to fool has it, so no pass only asks. At the end three passes look for the
    border on the segment from the image to its best point. Costs `steps` forward and backward
    passes per target and restart, one more forward pass each, and four in all.

    Args:
        steps: Gradient evaluations per target and restart.
        targets: Classes to attack towards, highest clean logit first; K - 1 at most.
        restarts: Starts per target, the first from the image, others at random within half of the
            best distance known or of eps.
        alpha_max: Bound of alpha, the pull towards the image.
        eta: How far beyond the hyperplane to go, 1 is onto it.
        beta: Share of the way from the image that is kept by a point that fools.

    Raises:
        ModelError: The model has no gradients or does not return logits (B, K).
        NumericsError: A logit or a gradient is not finite.
    """
    book = Closest(model, x, y, threat, rng)
    if len(book.x) == 0:
        return book.found
    for target in rivals(book.clean, book.y)[:, :targets].unbind(1):
        for restart in range(restarts):
            points = book.x if restart == 0 else _nearby(book, threat)
            for _ in range(steps):
                logits, gaps, gradient = differentiate(model, points, gap, book.y, target)
                kept = torch.where(book.offer(points, logits), beta, 1.0)
                held = book.x + per_image(kept, points) * (points - book.x)
                starts = torch.stack([held, book.x])
                moves, lengths = _onto_border(starts, points, gaps, gradient, threat.norm)
                share = lengths[0] / lengths.sum(0).clamp(min=torch.finfo(x.dtype).tiny)
                alpha = per_image(share.clamp(max=alpha_max), points)
                beyond, pulled = (starts + eta * moves).unbind()
                points = torch.lerp(beyond, pulled, alpha).clamp(0, 1)
            logits, _ = look(model, points, gap, book.y, target)
            book.offer(points, logits)
    _close_in(model, book)
    return book.found


def gap(logits: Tensor, y: Tensor, target: Tensor) -> Tensor:
    """Logit of the target class minus the label's, (b,)."""
    return logits.gather(1, target[:, None])[:, 0] - logits.gather(1, y[:, None])[:, 0]


def _onto_border(
    starts: Tensor, points: Tensor, gaps: Tensor, gradient: Tensor, norm: Norm
) -> tuple[Tensor, Tensor]:
    """Moves of `starts` (2, b, ...) onto the border as seen from `points`, and their lengths."""
    normal = gradient.expand_as(starts).flatten(0, 1).flatten(1)
    away = ((starts - points) * gradient).flatten(2).sum(2)
    moves = onto(starts.flatten(0, 1).flatten(1), normal, -(gaps + away).flatten(), norm)
    return moves.view_as(starts), BALLS[norm].size(moves).view_as(away)


def _nearby(book: Closest, threat: ThreatModel) -> Tensor:
    """A random point for each image, at most half as far as the best one known and as eps."""
    samples = [threat.sample(x[None], rng) for x, rng in zip(book.x, book.streams, strict=True)]
    sample = torch.cat(samples)
    size = threat.distance(book.x, sample).clamp(min=torch.finfo(sample.dtype).tiny)
    share = (book.distance / size).clamp(max=1) / 2
    return book.x + per_image(share, sample) * (sample - book.x)


def _close_in(model: Model, book: Closest) -> None:
    """Look for the border on the segments from the images to their best points, by secants."""
    far, best = torch.ones_like(book.distance), book.best.clone()
    near = torch.zeros_like(far)
    below = margin(book.clean, book.y)
    _, above = look(model, best, margin, book.y)
    for _ in range(FINAL_PASSES):
        # A hundredth beyond the secant's zero: on it, rounding alone would decide.
        zero = below / (below - above).clamp(max=-torch.finfo(below.dtype).tiny)
        place = near + (far - near) * (0.01 + 0.99 * zero.clamp(0, 1))
        points = (book.x + per_image(place, best) * (best - book.x)).clamp(0, 1)
        logits, margins = look(model, points, margin, book.y)
        fooled = book.offer(points, logits)
        far, above = torch.where(fooled, place, far), torch.where(fooled, margins, above)
        near, below = torch.where(fooled, near, place), torch.where(fooled, below, margins)
