"""The charts of one run, drawn from its evidence; every model keeps its sign and colour."""

from collections.abc import Mapping
from typing import NamedTuple

from hardening.evidence import AttackRow, Evidence, RunEvidence
from hardening.report import charts, numbers
from hardening.report.summary import ordered, robust

SOURCES = {"file": "led by the file", "parent": "led by its float parent"}


class Panel(NamedTuple):
    """One small chart with its title and a remark."""

    title: str
    remark: str
    svg: str


class Legend(NamedTuple):
    """A model's sign, and whether an alarm makes its numbers doubtful."""

    name: str
    svg: str
    alarm: bool


def styles(run: RunEvidence) -> dict[str, int]:
    """The number of each model's sign and colour."""
    return {model.name: number for number, model in enumerate(ordered(run))}


def legend(run: RunEvidence) -> list[Legend]:
    """Signs of the models that the charts show."""
    known = styles(run)
    return [
        Legend(m.name, charts.swatch(known[m.name]), any(alarm.fired for alarm in m.alarms))
        for m in ordered(run)
        if robust(m)
    ]


def unplaced(run: RunEvidence) -> list[str]:
    """Models that no chart of robust accuracy may show: a due attack did not run."""
    return [model.name for model in ordered(run) if robust(model) is None]


def attack_panels(run: RunEvidence) -> list[Panel]:
    """Accuracy without attack, under each attack, and in the worst case; bars of all models."""
    models, known = ordered(run), styles(run)
    clean = [charts.Bar(m.name, known[m.name], m.clean) for m in models]
    worst = [charts.Bar(m.name, known[m.name], robust(m), numbers.NOT_EVALUATED) for m in models]
    panels = [Panel("No attack", "clean accuracy", charts.bars("No attack", clean))]
    for name in dict.fromkeys(row.name for model in models for row in model.attacks):
        rows = {m.name: next((r for r in m.attacks if r.name == name), None) for m in models}
        entries = [
            charts.Bar(label, known[label], row.accuracy if row else None, "did not run")
            for label, row in rows.items()
        ]
        panels.append(Panel(name, _remark(rows), charts.bars(f"Under {name}", entries)))
    worst_case = charts.bars("Worst case over all attacks", worst)
    return [*panels, Panel("Worst case", "robust accuracy: all attacks, per image", worst_case)]


def curve(run: RunEvidence) -> str:
    """Robust accuracy against eps, or nothing when there is no curve to show."""
    known = styles(run)
    series = [
        charts.Series(m.name, known[m.name], [(point.eps, point.accuracy) for point in m.curve])
        for m in ordered(run)
        if m.curve and robust(m)
    ]
    return charts.curve(series, run.threat.eps) if series else ""


def scatter(run: RunEvidence) -> str:
    """Clean against robust accuracy, or nothing when no model has a robust accuracy."""
    known = styles(run)
    spots = [
        charts.Spot(model.name, known[model.name], model.clean, measured)
        for model in ordered(run)
        if (measured := robust(model))
    ]
    return charts.scatter(spots) if spots else ""


def curve_numbers(models: list[Evidence]) -> list[tuple[str, list[str]]]:
    """The points of the curves as text: eps, and one cell a model."""
    steps = sorted({point.eps for model in models for point in model.curve})
    return [(numbers.radius(eps), [_at(model, eps) for model in models]) for eps in steps]


def _at(model: Evidence, eps: float) -> str:
    if robust(model) is None:
        return numbers.NOT_EVALUATED
    found = next((point for point in model.curve if point.eps == eps), None)
    return numbers.accuracy(found.accuracy) if found else numbers.NOT_MEASURED


def _remark(rows: Mapping[str, AttackRow | None]) -> str:
    ran = [row for row in rows.values() if row]
    kinds = dict.fromkeys(row.kind for row in ran)
    sources = dict.fromkeys(SOURCES[row.source] for row in ran)
    return f"{', '.join(kinds)}; {', '.join(sources)}"
