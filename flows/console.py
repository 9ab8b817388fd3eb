"""What a command prints on standard output when it is done."""

import json
from pathlib import Path

from pydantic import ValidationError
from rich.console import Console
from rich.table import Table
from rich.text import Text

from flows.plan import Line
from hardening.consistency import contradiction
from hardening.errors import ConfigError
from hardening.evidence import RunEvidence
from hardening.report.summary import console as verdict_table
from hardening.spec import one_line
from hardening.verdict import Verdict
from tasks.publish import Published
from tasks.tracking import tracking_uri


def show_run(published: Published, as_json: bool) -> bool:
    """Print the table of a finished run and where to look further; whether the gate was met."""
    folder = Path(published.folder)
    run = read_evidence(folder / "evidence.json")
    verdict = Verdict.model_validate_json((folder / "verdict.json").read_text())
    if as_json:
        result = {**published.model_dump(), "verdict": verdict.model_dump()}
        print(json.dumps(result, indent=1))  # noqa: T201  machines read standard output
        return verdict.passed
    show_verdict(run, verdict, as_json=False)
    server = tracking_uri().startswith("http")
    where = {
        "report": published.report,
        "evidence": str(folder / "evidence.json"),
        "MLflow": published.tracking
        if server
        else f"mlflow ui --backend-store-uri {tracking_uri()}",
    }
    if published.version is not None:
        names = ", ".join(published.aliases) or "no alias"
        where["registry"] = f"version {published.version} ({names})"
    for name, text in where.items():
        _console().print(Text(f"{name:<10}{text}"), soft_wrap=True)  # an address is copied whole
    return verdict.passed


def show_verdict(run: RunEvidence, verdict: Verdict, as_json: bool) -> None:
    """Print a verdict: the table, every check that failed, and the sentence that sums it up."""
    if as_json:
        print(verdict.model_dump_json(indent=1))  # noqa: T201
        return
    console = _console()
    console.print(verdict_table(run, verdict))
    for judgement in verdict.judgements:
        for check in judgement.checks:
            # A number without its due attacks is not shown, not even as a failed check.
            shown = judgement.status != "NOT EVALUATED" or check.name == "due attacks missing"
            if shown and not check.passed:
                value = "not measured" if check.value is None else f"{check.value:.4g}"
                text = f" ({check.text})" if check.text else ""
                line = f"{judgement.name}: {check.name} {value}, limit {check.limit:.4g}{text}"
                console.print(Text(line))
    word = "PASSED" if verdict.passed else "GATE NOT MET"
    console.print(Text(f"{word}: {verdict.reason}", style="bold"))


def show_plan(lines: list[Line], as_json: bool) -> None:
    """Print what would run."""
    if as_json:
        print(json.dumps([line._asdict() for line in lines], indent=1))  # noqa: T201
        return
    table = Table("step", "state", "gradient calls", box=None, pad_edge=False)
    for line in lines:
        table.add_row(line.label, "cached" if line.cached else "will run", line.gradients)
    console = _console()
    console.print(table)
    todo = sum(not line.cached for line in lines)
    console.print(Text(f"{len(lines)} steps, {len(lines) - todo} cached, {todo} to run"))


def read_evidence(path: Path) -> RunEvidence:
    """Read an evidence file.

    Raises:
        ConfigError: It cannot be read, is no evidence of a version that we know, or its totals
            do not follow from its images.
    """
    try:
        run = RunEvidence.model_validate_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    except (ValidationError, UnicodeDecodeError) as error:
        why = one_line(error) if isinstance(error, ValidationError) else str(error)
        raise ConfigError(f"{path}: not an evidence file: {why}") from error
    if wrong := contradiction(run):
        raise ConfigError(f"{path}: contradicts itself: {wrong}")
    return run


def _console() -> Console:
    return Console(highlight=False, soft_wrap=False)
