"""When enough images were attacked to know on which side of a limit the accuracy lies.

Shapes: arrays of any one shape; N images in all, of which `seen` were looked at in random order.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import betainc, betaincc, betaln, gammaln

from hardening.spec import Record

Numbers = NDArray[np.float64]

WEIGHT = 10.0
"""Images' worth of belief that the accuracy is near the limit: near it a decision is expensive.
Mean images used, N = 1000, limit 0.4, error 0.05, accuracy 0.45 (300 runs): 350; uniform: 397."""


class Decision(Record):
    """Whether the accuracy of all images is `above` a limit (or at it) or `below`; None: go on.

    `images` is how many outcomes were looked at.
    `error` bounds the probability of a wrong decision, whatever the truth.
    """

    decided: Literal["above", "below"] | None
    images: int
    error: float
    text: str


class Evidence(NamedTuple):
    """Logarithms of e-values: how strongly outcomes speak for either side of the limit."""

    above: Numbers
    below: Numbers


def decide(outcomes: Sequence[bool], total: int, limit: float, error: float) -> Decision:
    """Decide whether the share of true outcomes is at least `limit`, if they tell already.

    The share is that of all `total` images, seen one after the other in random order, which must
    not depend on the outcomes. One may ask after each image or block and stop at the first
    decision: it comes when the e-value reaches 1 / error, and is wrong with probability `error` at
    most, however often one asked (Ville's inequality; Howard et al. 2021,
    https://arxiv.org/abs/1810.08240). What was reached between two questions does not count: so
    a decision never contradicts the share of the outcomes that it is reported with. A decision also
    follows, without any error, as soon as the images left cannot change it; so all images always
    decide. See `evidence` for the e-values.

    Raises:
        ValueError: More outcomes than images, no images, or an error outside (0, 1).
    """
    if not 0 < error < 1 or total < 1 or len(outcomes) > total:
        raise ValueError(
            f"got {len(outcomes)} outcomes of {total} images and error {error}, "
            "expected at most as many outcomes as images, at least one image, error in (0, 1)"
        )
    images = len(outcomes)
    found = evidence(sum(outcomes), images, total, limit)
    above, below = float(found.above), float(found.below)
    if max(above, below) < -np.log(error):
        text = f"not decided by {images} of {total} images in random order"
        return Decision(decided=None, images=images, error=error, text=text)
    return Decision(
        decided="above" if above > below else "below",
        images=images,
        error=error,
        text=f"{'at least' if above > below else 'below'} {limit:.4g}, decided by {images} of "
        f"{total} images in random order; wrong with probability {error:.4g} at most",
    )


def evidence(hits: ArrayLike, seen: ArrayLike, total: int, limit: float) -> Evidence:
    """Log e-values of having `hits` true outcomes among the first `seen` of `total` images.

    An e-value is Q / P: P is the largest probability of the outcomes, in their order, under any
    number of true ones on the other side of the limit, drawn without replacement; Q is a mixture
    of coin flips with a Beta distributed chance, cut at the limit. Q / P never exceeds
    Q / P(true number), a supermartingale from 1 on when the truth is on the other side.
    Cf. Waudby-Smith and Ramdas 2020, https://arxiv.org/abs/2006.04347 (drawing without
    replacement), https://arxiv.org/abs/2010.09686 (mixtures as bets).
    """
    s, t = np.asarray(hits, dtype=np.float64), np.asarray(seen, dtype=np.float64)
    least = _least(total, limit)
    if least in (0, total + 1):
        sure = np.full(s.shape, np.inf)
        return Evidence(sure, -sure) if least == 0 else Evidence(-sure, sure)
    split = (least - 0.5) / total
    a, b = WEIGHT * split, WEIGHT * (1 - split)
    coins = betaln(a + s, b + t - s) - betaln(a, b)
    with np.errstate(divide="ignore"):
        more = coins + np.log(betaincc(a + s, b + t - s, split) / betaincc(a, b, split))
        less = coins + np.log(betainc(a + s, b + t - s, split) / betainc(a, b, split))
    above = _against(least - 1, more, s, t, total)
    below = _against(least, less, s, t, total)
    # P falls to both sides of the likeliest number: it is largest at the limit only if that lies
    # on the other side. Elsewhere Q / (largest P) is 1 at most and decides nothing.
    likely = s * (total + 1) / np.maximum(t, 1)
    return Evidence(
        np.where((t > 0) & (likely >= least - 1), above, -np.inf),
        np.where((t > 0) & (likely <= least + 1), below, -np.inf),
    )


def _least(total: int, limit: float) -> int:
    """The smallest number of true outcomes whose share passes `share >= limit`, as floats do."""
    counts = np.arange(total + 1) / total
    return int(np.searchsorted(counts, limit, side="left"))


def _against(true: int, log_q: Numbers, s: Numbers, t: Numbers, total: int) -> Numbers:
    """Log Q / P for `true` true ones among `total`; infinite where they cannot give s of t."""
    left, wrong_left = true - s, total - true - (t - s)
    possible = (left >= 0) & (wrong_left >= 0)
    log_p = (
        gammaln(true + 1)
        - gammaln(np.maximum(left, 0) + 1)
        + gammaln(total - true + 1)
        - gammaln(np.maximum(wrong_left, 0) + 1)
        - gammaln(total + 1)
        + gammaln(total - t + 1)
    )
    return np.where(possible, log_q - log_p, np.inf)
