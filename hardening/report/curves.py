"""The line charts of one run: against eps, against forward passes, against distance."""

from collections import Counter
from collections.abc import Iterator
from math import isfinite

import numpy as np

from hardening.alarms import BORROWED
from hardening.evidence import Accuracy, AttackRow, Evidence, RunEvidence
from hardening.report import charts, nearest, numbers
from hardening.report.figures import Panel, styles
from hardening.report.summary import ordered, robust

NEAREST_SHOWN = 95
"""Percentile of the distances that ends their axis: a few far images would press all others."""

BEYOND_EPS = 1.5
"""The axis of distances reaches at least this multiple of eps."""

Line = list[tuple[float, float]]
Measured = list[tuple[float, Accuracy]]


def panels(run: RunEvidence) -> list[Panel]:
    """The charts there is something to draw in, of models whose robust accuracy may be shown."""
    shown = [model for model in ordered(run) if robust(model)]
    return [*_against_eps(run, shown), *_against_passes(run, shown), *_against_distance(run, shown)]


def points(models: list[Evidence]) -> list[tuple[str, list[str]]]:
    """The points of the curves against eps as text: eps, and one cell a model."""
    keys = sorted({(point.unbounded, point.eps) for model in models for point in model.curve})
    return [
        ("no bound" if key[0] else numbers.radius(key[1]), [_at(model, key) for model in models])
        for key in keys
    ]


def _against_eps(run: RunEvidence, models: list[Evidence]) -> Iterator[Panel]:
    known = styles(run)
    series = []
    for model in models:
        bounded = [(point.eps, point.accuracy) for point in model.curve if not point.unbounded]
        line = [(eps, measured.value) for eps, measured in bounded]
        if bounded:
            series.append(charts.Series(model.name, known[model.name], line, bounded))
    if not series:
        return
    furthest = max([run.threat.eps, *(eps for one in series for eps, _ in one.line)])
    axes = charts.Axes("eps", "robust accuracy", 1.03 * furthest)
    without = {m.name: p.accuracy for m in models for p in m.curve if p.unbounded}
    remark = "how robust accuracy falls as the adversary may change more"
    remark += f"; without any bound: {_each(without)}" if without else ""
    yield Panel("Against eps", remark, charts.lines(axes, series, _eps(run)))


def _against_passes(run: RunEvidence, models: list[Evidence]) -> Iterator[Panel]:
    """Through the gradient attacks one after the other: each starts where the last one ended."""
    known = styles(run)
    followed = {model.name: _followed(model) for model in models}
    series = [
        charts.Series(model.name, known[model.name], *_convergence(model, followed[model.name]))
        for model in models
        if followed[model.name]
    ]
    if not series:
        return
    furthest = max(passes for one in series for passes, _ in one.line)
    names = dict.fromkeys(row.name for rows in followed.values() for row in rows)
    remark = (
        f"through {', then '.join(names)}; a sign ends each attack, and the line must be flat "
        "before it: else more passes would break more"
    )
    axes = charts.Axes("forward passes of an image", "accuracy", 1.03 * furthest)
    yield Panel("Against forward passes", remark, charts.lines(axes, series))


def _against_distance(run: RunEvidence, models: list[Evidence]) -> Iterator[Panel]:
    known, eps = styles(run), run.threat.eps
    values = {model.name: found for model in models if (found := nearest.distances(model))}
    series = [
        charts.Series(
            model.name,
            known[model.name],
            _survival(values[model.name]),
            [(eps, nearest.farther(model, eps))],
        )
        for model in models
        if model.name in values
    ]
    if not series:
        return
    found = [value for each in values.values() for value in each if isfinite(value)]
    far = float(np.percentile(found, NEAREST_SHOWN)) if found else 0.0
    attacks = dict.fromkeys(m.distances.attack for m in models if m.distances)
    remark = (
        f"nearest adversarial images that {', '.join(attacks)} found without a bound, of "
        f"{max(map(len, values.values()))} images; nearer ones may exist"
    )
    axes = charts.Axes(
        f"distance ({run.threat.norm})", "share of images farther", max(BEYOND_EPS * eps, far)
    )
    yield Panel("Against distance", remark, charts.lines(axes, series, _eps(run)))


def _followed(model: Evidence) -> list[AttackRow]:
    """The attacks that follow the model's own gradients and met every image that stood."""
    return [row for row in model.attacks if row.kind not in BORROWED and not row.sampled]


def _convergence(model: Evidence, rows: list[AttackRow]) -> tuple[Line, Measured]:
    """The share that stands after each forward pass, as steps, and that at each attack's end."""
    images, passed = model.clean.images, 0
    line, ends = [(0.0, model.clean.value)], []
    for row in rows:
        standing = row.accuracy.correct + len(row.fell)
        for step, fell in sorted(Counter(row.step).items()):
            line.append((passed + step, standing / images))
            standing -= fell
            line.append((passed + step, standing / images))
        passed += max([row.budget_forwards, *row.step])
        line.append((passed, row.accuracy.value))
        ends.append((float(passed), row.accuracy))
    return line, ends


def _survival(values: list[float]) -> Line:
    """The share of images that are farther than each distance, infinite ones too, as steps."""
    left = total = len(values)
    line = [(0.0, 1.0)]
    for distance, count in sorted(Counter(values).items()):
        line.append((distance, left / total))
        left -= count
        line.append((distance, left / total))
    return line


def _eps(run: RunEvidence) -> charts.Limit:
    return charts.Limit(run.threat.eps, f"threat: eps {numbers.radius(run.threat.eps)}")


def _at(model: Evidence, key: tuple[bool, float]) -> str:
    if robust(model) is None:
        return numbers.NOT_EVALUATED
    found = next((p for p in model.curve if (p.unbounded, p.eps) == key), None)
    return numbers.accuracy(found.accuracy) if found else numbers.NOT_MEASURED


def _each(measured: dict[str, Accuracy]) -> str:
    """One number where all models have it in common, else each model's."""
    texts = {name: numbers.percent(found.value) for name, found in measured.items()}
    if len({*texts.values()}) == 1:
        return next(iter(texts.values()))
    return ", ".join(f"{name} {text}" for name, text in texts.items())
