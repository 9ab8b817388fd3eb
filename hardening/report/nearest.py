"""How far the nearest adversarial images of each model are, in numbers."""

from math import inf, isfinite
from statistics import median_low

from hardening.evidence import Accuracy, Evidence, RunEvidence
from hardening.report import numbers
from hardening.report.summary import ordered, robust
from hardening.statistics import accuracy

COLUMNS = ("Model", "Attack", "Images", "None found", "Median distance", "Farther than eps")


def distances(model: Evidence) -> list[float]:
    """Distances of the nearest adversarial images found; infinity where there was none."""
    values = model.distances.values if model.distances else []
    return [inf if value is None else value for value in values]


def median(model: Evidence) -> float | None:
    """The median of the distances, when adversarial images were found for that many.

    It tells how robust a model is: without its due attacks there is none.
    """
    values = distances(model)
    if not values or robust(model) is None:
        return None
    middle = median_low(values)
    return middle if isfinite(middle) else None


def farther(model: Evidence, eps: float) -> Accuracy:
    """The share of the images of which no adversarial one was found within `eps`."""
    return accuracy([distance > eps for distance in distances(model)])


def table(run: RunEvidence) -> list[tuple[str, ...]]:
    """A row for each model that was searched, in the order of `COLUMNS`."""
    return [_row(run, model) for model in ordered(run) if distances(model)]


def _row(run: RunEvidence, model: Evidence) -> tuple[str, ...]:
    values = distances(model)
    attack = model.distances.attack if model.distances else ""
    cells = (model.name, attack, numbers.count(len(values)), numbers.count(values.count(inf)))
    if robust(model) is None:
        return (*cells, numbers.NOT_EVALUATED, numbers.NOT_EVALUATED)
    middle = median(model)
    said = "none found for half" if middle is None else numbers.plain(middle)
    return (*cells, said, numbers.accuracy(farther(model, run.threat.eps)))
