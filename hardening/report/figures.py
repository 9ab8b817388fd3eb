"""The charts of one run, drawn from its evidence; every model keeps its sign and colour."""

from collections.abc import Mapping
from typing import NamedTuple

from hardening.evidence import AttackRow, Evidence, RunEvidence
from hardening.report import charts, numbers, words
from hardening.report.summary import ordered, robust


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
    """Accuracy without attack, after each attack in turn, and in the end; bars of all models."""
    models, known = ordered(run), styles(run)
    clean = [charts.Bar(m.name, known[m.name], m.clean) for m in models]
    worst = [charts.Bar(m.name, known[m.name], robust(m), numbers.NOT_EVALUATED) for m in models]
    panels = [Panel("No attack", "clean accuracy", charts.bars("No attack", clean))]
    for name in words.attack_names(models):
        rows = {m.name: next((r for r in m.attacks if r.name == name), None) for m in models}
        entries = [_after(m, known[m.name], rows[m.name]) for m in models]
        panels.append(Panel(name, _remark(rows), charts.bars(f"After {name}", entries)))
    worst_case = charts.bars("Worst case over all attacks", worst)
    return [*panels, Panel("Worst case", "robust accuracy: all attacks, per image", worst_case)]


def scatter(run: RunEvidence) -> list[Panel]:
    """Clean against robust accuracy, when a model has a robust accuracy."""
    known = styles(run)
    spots = [
        charts.Spot(model.name, known[model.name], model.clean, measured)
        for model in ordered(run)
        if (measured := robust(model))
    ]
    remark = "up and to the right is better; the axes need not start at 0"
    return [Panel("Clean against robust", remark, charts.scatter(spots))] if spots else []


def _after(model: Evidence, style: int, row: AttackRow | None) -> charts.Bar:
    """What stands after the last attack is the robust accuracy: it is shown where that may be."""
    if row is None:
        return charts.Bar(model.name, style, None, "did not run")
    if robust(model) is None:
        return charts.Bar(model.name, style, None, numbers.NOT_EVALUATED)
    return charts.Bar(model.name, style, row.accuracy)


def _remark(rows: Mapping[str, AttackRow | None]) -> str:
    ran = [row for row in rows.values() if row]
    kinds = ", ".join(dict.fromkeys(row.kind for row in ran))
    return f"{kinds}; a sample of what stood" if any(row.sampled for row in ran) else kinds
