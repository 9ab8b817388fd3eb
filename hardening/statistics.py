"""Intervals and comparisons: nothing is called better inside the noise."""

from collections.abc import Sequence
from math import sqrt

from scipy.stats import beta, binomtest, norm

from hardening.evidence import Accuracy
from hardening.spec import Record

CONFIDENCE = 0.95


def accuracy(correct: Sequence[bool]) -> Accuracy:
    """Share of true entries with its Wilson score interval (Wilson 1927).

    Raises:
        ValueError: `correct` is empty: an accuracy over no images says nothing.
    """
    if not correct:
        raise ValueError("got an accuracy over 0 images, expected at least 1")
    hits, n = sum(correct), len(correct)
    z = float(norm.ppf((1 + CONFIDENCE) / 2))
    p = hits / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    lower = 0.0 if hits == 0 else max(0.0, centre - half)
    upper = 1.0 if hits == n else min(1.0, centre + half)
    return Accuracy(correct=hits, images=n, value=p, lower=lower, upper=upper)


def clopper_pearson(hits: int, n: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Exact interval of a probability that showed in `hits` of `n` draws (Clopper, Pearson 1934).

    Each end alone is wrong with probability (1 - confidence) / 2 at most, for any truth: where a
    proof hangs on it, Wilson's interval, right on average, is not enough.

    Raises:
        ValueError: There are no draws, more hits than draws, or no such confidence.
    """
    if not 0 <= hits <= n or n < 1 or not 0 < confidence < 1:
        raise ValueError(f"got {hits} of {n} at confidence {confidence}, expected hits among draws")
    tail = (1 - confidence) / 2
    lower = float(beta.ppf(tail, hits, n - hits + 1)) if hits else 0.0
    upper = float(beta.ppf(1 - tail, hits + 1, n - hits)) if hits < n else 1.0
    return lower, upper


def upper_bound_of_none(n: int, confidence: float = CONFIDENCE) -> float:
    """Exact one-sided bound of a share that showed in none of `n` draws; about 3 / n at 95 %.

    Raises:
        ValueError: There are no draws.
    """
    if n < 1:
        raise ValueError(f"got {n} draws, expected at least 1")
    return float(1 - (1 - confidence) ** (1 / n))


class Comparison(Record):
    """Two models on the same images: the accuracy difference `second - first` and its noise.

    `lower` and `upper` bound the difference at 95 %; `p_value` is McNemar's exact test.
    """

    gained: int
    lost: int
    difference: float
    lower: float
    upper: float
    p_value: float

    @property
    def better(self) -> bool:
        """Whether the second is better beyond the noise."""
        return self.difference > 0 and self.p_value < 1 - CONFIDENCE


def compare(first: Sequence[bool], second: Sequence[bool]) -> Comparison:
    """Paired comparison of per-image outcomes (McNemar 1947, exact).

    The interval is Wald's on the discordant pairs with Agresti and Min's (2005) added counts.

    Raises:
        ValueError: The two sequences are of different images.
    """
    if len(first) != len(second) or not first:
        raise ValueError(f"got {len(first)} and {len(second)} outcomes, expected the same images")
    n = len(first)
    gained = sum(b and not a for a, b in zip(first, second, strict=True))
    lost = sum(a and not b for a, b in zip(first, second, strict=True))
    z = float(norm.ppf((1 + CONFIDENCE) / 2))
    m, g, s = n + 2, gained + 0.5, lost + 0.5
    centre = (g - s) / m
    half = z * sqrt(max(0.0, g + s - (g - s) ** 2 / m)) / m
    discordant = gained + lost
    return Comparison(
        gained=gained,
        lost=lost,
        difference=(gained - lost) / n,
        lower=max(-1.0, centre - half),
        upper=min(1.0, centre + half),
        p_value=float(binomtest(gained, discordant).pvalue) if discordant else 1.0,
    )
