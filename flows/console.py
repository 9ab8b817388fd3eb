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
from hardening.spec import Record, one_line
from hardening.verdict import Verdict
from tasks.arrivals import Taken
from tasks.attempts import Retrained
from tasks.finding import Finding
from tasks.publish import Published
from tasks.tracking import tracking_uri


def show_run(published: Published, as_json: bool) -> bool:
    """Print the table of a finished run and where to look further; whether the gate was met."""
    folder = Path(published.folder)
    run = read_evidence(folder / "evidence.json")
    verdict = _verdict(published)
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


def show_taken(taken: list[Taken], result: Record | None) -> bool:
    """Print what became of versions that arrived, or `result` as JSON; whether all are fit for use.

    One that was done with before, or that somebody else is at work on, is not in the way.
    """
    for one in taken if result is None else []:
        for published in (one.published, one.hardened):
            if published is not None:
                show_run(published, as_json=False)
        if one.outcome == "judged":
            _console().print(Text(f"version {one.version}: {one.verdict}", style="bold"))
    if result is not None:
        print(result.model_dump_json(indent=1))  # noqa: T201
    return all(one.outcome in {"done", "busy"} or one.verdict == "passed" for one in taken)


def show_retrained(retrained: Retrained, as_json: bool) -> bool:
    """Print what came of a retraining; whether the gate was met, or nothing was to be done."""
    published = retrained.published
    if as_json:
        print(retrained.model_dump_json(indent=1))  # noqa: T201
    elif published is not None:
        show_run(published, as_json=False)
    return published is None or _verdict(published).passed


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


def show_findings(findings: list[Finding], as_json: bool) -> None:
    """Print what the doctor found: a line each, and what to do below what is wrong."""
    if as_json:
        print(json.dumps([finding.model_dump() for finding in findings], indent=1))  # noqa: T201
        return
    console = _console()
    for finding in findings:
        word = Text("ok    ", style="green") if finding.ok else Text("WRONG ", style="bold red")
        cure = f" -> {finding.cure}" if finding.cure else ""
        console.print(word + Text(f"{finding.check:<10}{finding.found}{cure}"), soft_wrap=True)


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


def _verdict(published: Published) -> Verdict:
    return Verdict.model_validate_json(Path(published.folder, "verdict.json").read_text())


def _console() -> Console:
    return Console(highlight=False, soft_wrap=False)
