"""The tables that have one column a model: gate checks, alarms, due attacks."""

from typing import NamedTuple, get_args

from hardening.evidence import Alarm, Evidence, Kind, RunEvidence
from hardening.report import numbers
from hardening.statistics import compare
from hardening.verdict import SHIPS, Check, Verdict, is_serious, missing_attacks


class Cell(NamedTuple):
    """What was found, the word for it, and a remark; any may be empty."""

    text: str
    status: str = ""
    note: str = ""


class Line(NamedTuple):
    """One row: its head, an explanation, the limit, and one cell a column."""

    head: str
    explanation: str
    limit: str
    cells: list[Cell]


class Matrix(NamedTuple):
    """Names of the models, and the rows."""

    columns: list[str]
    rows: list[Line]


class _Form(NamedTuple):
    """How a gate's check is written: sign of its limit, and unit."""

    sign: str
    unit: str


FORMS = {
    "due attacks missing": _Form("at most", "count"),
    "alarms": _Form("at most", "count"),
    SHIPS: _Form("at least", "count"),
    "clean accuracy": _Form("at least", "percent"),
    "robust accuracy": _Form("at least", "percent"),
    "clean drop": _Form("at most", "points"),
    "robust gain": _Form("at least", "points"),
    "latency p50 ms": _Form("at most", "milliseconds"),
}

OF_ROBUST = {"robust accuracy", "robust gain"}
OF_CONTROL = {"robust gain"}


def gate_matrix(run: RunEvidence, verdict: Verdict) -> Matrix:
    """Every check of every judged model: value, limit, passed or failed."""
    columns = [judgement.name for judgement in verdict.judgements]
    names = dict.fromkeys(check.name for j in verdict.judgements for check in j.checks)
    rows = []
    for name in names:
        found = [next((c for c in j.checks if c.name == name), None) for j in verdict.judgements]
        limit = next(check.limit for check in found if check is not None)
        cells = [_check_cell(run, *pair) for pair in zip(columns, found, strict=True)]
        form = FORMS.get(name, _Form("", "plain"))
        rows.append(Line(name, "", f"{form.sign} {_quantity(limit, form.unit)}".strip(), cells))
    return Matrix(columns, rows)


def alarm_matrix(models: list[Evidence]) -> Matrix:
    """Every alarm of every model: value, limit, fired or quiet; advice where one fired."""
    keys = dict.fromkeys((a.gate, a.name) for m in models for a in m.alarms)
    rows = []
    for gate, name in sorted(keys, key=_catalogued):
        found = [next((a for a in m.alarms if a.name == name), None) for m in models]
        ran = [alarm for alarm in found if alarm is not None]
        text = ran[0].meaning
        if any(alarm.fired for alarm in ran):
            text = f"{text.rstrip('.')}. What to do: {ran[0].advice}"
        limits = dict.fromkeys(numbers.plain(alarm.limit) for alarm in ran)
        head = f"{gate} {name}" if _number(gate) else name
        rows.append(Line(head, text, ", ".join(limits), [*map(_alarm_cell, found)]))
    return Matrix([model.name for model in models], rows)


def _catalogued(key: tuple[str, str]) -> tuple[int, str]:
    """Gates by number, those without one after them."""
    return (_number(key[0]) or 99, key[1])


def _number(gate: str) -> int:
    """5 of `G5`, 0 of a gate that has a name for a number."""
    number = gate.removeprefix("G")
    return int(number) if number.isdigit() else 0


def _alarm_cell(alarm: Alarm | None) -> Cell:
    if alarm is None:
        return Cell("", "not applied")
    if alarm.value is None:
        return Cell("", "not applicable", alarm.detail)
    images = f"on {numbers.count(alarm.images)} images"
    told = alarm.detail.endswith(f"of {alarm.images}")
    note = alarm.detail if told else "; ".join(filter(None, (alarm.detail, images)))
    return Cell(numbers.plain(alarm.value), "fired" if alarm.fired else "quiet", note)


def due_matrix(models: list[Evidence]) -> Matrix:
    """Every kind of attack on every model: due or not, and what ran."""
    rows = []
    for kind in get_args(Kind):
        cells = []
        for model in models:
            means = _means(kind) if kind in model.due else {kind}
            answers = [row for row in model.attacks if row.kind in means]
            ran = ", ".join(row.name for row in answers if is_serious(row))
            if kind in missing_attacks(model):
                cells.append(Cell("due", numbers.NOT_EVALUATED))
            elif ran:
                cells.append(Cell("due" if kind in model.due else "not due", "ran", ran))
            else:
                cells.append(Cell("", "not due"))
        rows.append(Line(kind, "", "", cells))
    return Matrix([model.name for model in models], rows)


def _means(kind: Kind) -> set[Kind]:
    """The kinds that answer a due `kind`, as `missing_attacks` counts them."""
    also: dict[Kind, set[Kind]] = {
        "white-box": {"straight-through", "bpda", "expectation", "joint"},
        "bpda": {"straight-through"},
    }
    return {kind} | also.get(kind, set())


def _check_cell(run: RunEvidence, model: str, check: Check | None) -> Cell:
    if check is None:
        return Cell("", "not checked")
    unknown = check.name in OF_ROBUST and bool(missing_attacks(run.models[model]))
    without_control = check.name in OF_CONTROL and bool(missing_attacks(run.models["control"]))
    if unknown or without_control:
        return Cell("", numbers.NOT_EVALUATED)
    form = FORMS.get(check.name, _Form("", "plain"))
    status = "passed" if check.passed else "failed"
    if check.value is None:
        return Cell(numbers.NOT_MEASURED, status)
    if check.name in OF_CONTROL:
        gain = compare(run.models["control"].survived, run.models[model].survived)
        return Cell(_quantity(check.value, form.unit), status, numbers.noise(gain))
    return Cell(_quantity(check.value, form.unit), status, check.text)


def _quantity(value: float, unit: str) -> str:
    """Two decimals where others show one: a value must show on which side of its limit it is."""
    if unit == "percent":
        return numbers.percent(value, digits=2)
    if unit == "points":
        return f"{100 * value:.2f} pt"
    if unit == "milliseconds":
        return f"{numbers.milliseconds(value)} ms"
    return f"{value:.0f}" if unit == "count" else numbers.plain(value)
