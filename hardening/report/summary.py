"""The results of a run as rows of text, and those rows as markdown and as a console table."""

from rich import box
from rich.table import Table
from rich.text import Text

from hardening.evidence import Accuracy, Alarm, Evidence, Naive, RunEvidence
from hardening.report import github, numbers, words
from hardening.report.matrices import Matrix, gate_matrix
from hardening.statistics import compare
from hardening.verdict import Gate, Verdict, missing_attacks

ROLES = ("control", "candidate", "champion")

COLUMNS = {
    "name": "Model",
    "clean": "Clean accuracy",
    "clean_change": "Clean against control",
    "robust": "Robust accuracy",
    "robust_change": "Robust against control",
    "size": "Size",
    "precision": "Precision",
    "latency_1": "Latency p50, batch\u00a01",
    "latency_32": "Latency p50, batch\u00a032",
    "training": "Training",
    "verdict": "Verdict",
}

NAIVE = "Naive number"
"""Title of a column that is there when it was asked for: it goes behind the robust accuracy."""

REFERENCE = "–"

STYLES = {"passed": "green", "failed": "red", numbers.NOT_EVALUATED: "yellow"}


def table(run: RunEvidence, verdict: Verdict) -> list[dict[str, str]]:
    """One row a model, control first and the champion last; the keys of `columns`, `role`, `why`.

    A model whose due attacks did not all run has `NOT EVALUATED` for its robust accuracy.
    """
    return [_row(run, verdict, model) for model in ordered(run)]


def columns(run: RunEvidence) -> dict[str, str]:
    """Titles by key; what a careless evaluation would report stands beside the worst case."""
    if not any(model.naive for model in run.models.values()):
        return COLUMNS
    titles = {}
    for key, title in COLUMNS.items():
        titles[key] = title
        if key == "robust":
            titles["naive"] = NAIVE
    return titles


def ordered(run: RunEvidence) -> list[Evidence]:
    """Control, candidates, champion."""
    return sorted(run.models.values(), key=lambda model: ROLES.index(model.role))


def robust(model: Evidence) -> Accuracy | None:
    """The robust accuracy, or nothing when a due attack is missing."""
    return None if missing_attacks(model) else model.robust


def naive(model: Evidence) -> Naive | None:
    """What a careless evaluation would report: the lower of its accuracies, if it was made."""
    return min(model.naive, key=lambda row: row.accuracy.value, default=None)


def markdown(run: RunEvidence, gate: Gate, verdict: Verdict) -> str:
    """The summary as GitHub-flavoured markdown; names from outside are escaped."""
    rows = table(run, verdict)
    titles = columns(run)
    header = [*titles.values()]
    body = [
        [github.escape(row["name"]), *(row[key] for key in [*titles][1:-1]), status(row)]
        for row in rows
    ]
    lines = [
        f"## {'Passed' if verdict.passed else 'Failed'}: {github.escape(words.headline(verdict))}",
        "",
        github.escape(f"{words.measured(run, verdict)} {words.promotion(verdict)}"),
        "",
        *(f"- **{term}**: {github.escape(text)}" for term, text in words.tested(run)),
        "",
        *github.table(header, body),
        "",
        "### Gate",
        "",
        *_matrix(gate_matrix(run, verdict)),
        "",
        *([words.limits(gate), ""] if words.limits(gate) else []),
        *_fired(run),
        words.meaning(run),
    ]
    return "\n".join(lines) + "\n"


def console(run: RunEvidence, verdict: Verdict) -> Table:
    """The results of control and candidates; a terminal adds colour, a file stays plain.

    Intervals stand below their numbers, so the table fits 80 columns; p50 is at batch 1. The naive
    number, where it was asked for, stands in the place of the size.
    """
    grid = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    grid.add_column("Model", min_width=10, max_width=22, overflow="fold")
    # The naive number takes the place of the size: there is no room for both.
    third = ("naive", "Naive") if "naive" in columns(run) else ("size", "Size")
    for title in ("Clean accuracy", "Robust accuracy", third[1], "p50"):
        grid.add_column(title, justify="right", no_wrap=True)
    grid.add_column("Verdict", min_width=13, max_width=24, overflow="fold")
    for row in table(run, verdict):
        if row["role"] == "champion":
            continue
        style = STYLES.get(row["verdict"], "")
        short = (row[key].split(" [")[0] for key in (third[0], "latency_1"))
        cells = (row["name"], row["clean"], row["robust"], *short)
        lines = (github.one_line(cell).replace(" [", "\n[") for cell in cells)
        grid.add_row(*(Text(line) for line in lines), Text(status(row), style))
    return grid


def status(row: dict[str, str]) -> str:
    """The verdict of a row and its reason in one piece."""
    return f"{row['verdict']}: {row['why']}" if row["why"] else row["verdict"]


def _row(run: RunEvidence, verdict: Verdict, model: Evidence) -> dict[str, str]:
    control = run.models["control"]
    is_control = model.name == control.name
    comparable = robust(model) is not None and robust(control) is not None
    measured = robust(model)
    gain = numbers.change(compare(control.survived, model.survived)) if comparable else None
    drop = numbers.change(compare(control.correct, model.correct))
    word, why = _verdict(verdict, model)
    return {
        "name": model.name,
        "role": model.role,
        "clean": numbers.accuracy(model.clean),
        "clean_change": REFERENCE if is_control else drop,
        "robust": numbers.accuracy(measured) if measured else numbers.NOT_EVALUATED,
        **({"naive": _naive(model)} if "naive" in columns(run) else {}),
        "robust_change": REFERENCE if is_control else gain or numbers.NOT_EVALUATED,
        "size": numbers.size(model.file.bytes),
        "precision": model.file.precision,
        "latency_1": _latency(model, 1),
        "latency_32": _latency(model, 32),
        "training": numbers.seconds(model.training_seconds),
        "verdict": word,
        "why": why,
    }


def _naive(model: Evidence) -> str:
    found = naive(model)
    if found is None:
        return numbers.NOT_MEASURED
    return f"{numbers.accuracy(found.accuracy)}, {found.attack}"


def _latency(model: Evidence, batch: int) -> str:
    found = next((entry for entry in model.latency if entry.batch == batch), None)
    if found is None:
        return numbers.NOT_MEASURED
    median, tail = numbers.milliseconds(found.p50_ms), numbers.milliseconds(found.p95_ms)
    if numbers.NOT_MEASURED in {median, tail}:
        return numbers.NOT_MEASURED
    return f"{median} ms [p95 {tail}]"


def _verdict(verdict: Verdict, model: Evidence) -> tuple[str, str]:
    judgement = next((j for j in verdict.judgements if j.name == model.name), None)
    if judgement is None:
        return ("reference" if model.role == "control" else "champion now"), ""
    if judgement.status == numbers.NOT_EVALUATED:
        return judgement.status, ", ".join(missing_attacks(model))
    failed = ", ".join(check.name for check in judgement.checks if not check.passed)
    return judgement.status, "chosen" if model.name == verdict.chosen else failed


def _matrix(matrix: Matrix) -> list[str]:
    rows = [
        [github.escape(line.head), line.limit]
        + [f"{cell.text} ({cell.status})" if cell.text else cell.status for cell in line.cells]
        for line in matrix.rows
    ]
    return github.table(["Check", "Limit", *(github.escape(name) for name in matrix.columns)], rows)


def _fired(run: RunEvidence) -> list[str]:
    found = [
        f"- **{github.escape(model.name)}**: {github.escape(_alarm(alarm))}"
        for model in ordered(run)
        for alarm in model.alarms
        if alarm.fired
    ]
    return ["### Alarms that fired", "", *found, ""] if found else []


def _alarm(alarm: Alarm) -> str:
    return (
        f"{alarm.gate} {alarm.name} {numbers.plain(alarm.value)}, limit "
        f"{numbers.plain(alarm.limit)}, on {numbers.count(alarm.images)} images: "
        f"{alarm.meaning.rstrip('.')}. What to do: {alarm.advice.rstrip('.')}."
    )
