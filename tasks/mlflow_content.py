"""What MLflow is told about a run: parameters, numbers and tags, all known before it is asked."""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from math import isfinite
from typing import NamedTuple

from hardening.errors import NumericsError
from hardening.evidence import Accuracy, Evidence, RunEvidence
from hardening.report import nearest, surveys
from hardening.verdict import Gate, Verdict, missing_attacks

MAX_KEY = 250
"""Longest name of a parameter, metric or tag, characters."""

MAX_VALUE = 500
"""Longest value of a parameter on any server in use, characters; evidence.json has it whole."""


class Measure(NamedTuple):
    """One number; `step` counts the points of a curve."""

    key: str
    value: float
    step: int = 0


def run_params(run: RunEvidence, gate: Gate) -> dict[str, str]:
    """The configuration, flattened to dotted names; the gate is the one that judged."""
    config = {key: value for key, value in run.config.items() if key != "gate"}
    facts = {
        **config,
        "gate": gate.model_dump(exclude_none=True),
        "threat": run.threat.model_dump(mode="json"),
        "seed": run.seed,
        "images": run.images,
    }
    return _params(facts)


def run_tags(run: RunEvidence, gate: Gate, verdict: Verdict, digest: str) -> dict[str, str]:
    """What the run is found by, and what it rests on; `digest` is that of its evidence."""
    decided = run.decision
    early = (
        {"temper.decided": f"{decided.images} of {decided.of} at error {decided.error:g}"}
        if decided
        else {}
    )
    judged = f"{gate.model_dump_json()}{verdict.model_dump_json()}".encode()
    return {
        "temper.evidence": digest,
        "temper.judgement": hashlib.sha256(judged).hexdigest(),
        "temper.verdict": "passed" if verdict.passed else "failed",
        "temper.chosen": verdict.chosen or "",
        "temper.promote": str(verdict.promote).lower(),
        "temper.threat": str(run.threat),
        "temper.data": run.data.sha256,
        **early,
        "mlflow.note.content": verdict.reason,
        **{_key(f"temper.environment.{name}"): text for name, text in run.environment.items()},
    }


def model_params(model: Evidence) -> dict[str, str]:
    """The chain of defenses, and how the file was run."""
    chain = " > ".join(str(defense.get("name", "?")) for defense in model.defenses)
    return _params(
        {
            "chain": chain or "none",
            "defenses": model.defenses,
            "precision": model.file.precision,
            "providers": ", ".join(model.file.providers),
            "threads": model.file.threads,
        }
    )


def model_tags(model: Evidence, verdict: Verdict) -> dict[str, str]:
    """Which model of the run this is, its file, and how it was judged."""
    status = {j.name: j.status for j in verdict.judgements}.get(model.name, "not judged")
    return {
        "temper.model": model.name,
        "temper.role": model.role,
        "temper.graph": model.file.identity,
        "temper.verdict": status,
    }


def model_measures(model: Evidence) -> list[Measure]:
    """All numbers of one model; point i of the curve is step i of `curve_eps` and its accuracy.

    Raises:
        NumericsError: One of them is not finite: MLflow would store NaN without a word.
    """
    measures = [
        *_interval("clean_accuracy", model.clean),
        # No robust number without its due attacks: it would be read without its caveat.
        *([] if missing_attacks(model) else _robust(model)),
        *_doubts(model),
        *_beyond(model),
        Measure("size_bytes", model.file.bytes),
        Measure("training_seconds", model.training_seconds),
    ]
    for entry in model.latency:
        measures.append(Measure(f"latency_p50_ms/batch_{entry.batch}", entry.p50_ms))
        measures.append(Measure(f"latency_p95_ms/batch_{entry.batch}", entry.p95_ms))
    for measure in measures:
        if not isfinite(measure.value):
            raise NumericsError(
                f"model {model.name!r}: {measure.key} is {measure.value}, expected a finite number"
            )
    return measures


def _robust(model: Evidence) -> Iterator[Measure]:
    """What says how robust a model is; the curve ends where the perturbation is bounded."""
    yield from _interval("robust_accuracy", model.robust)
    for row in model.attacks:
        yield Measure(f"accuracy_after/{_part(row.name)}", row.accuracy.value)
    curve = sorted(model.curve, key=lambda point: point.eps)
    for step, point in enumerate(point for point in curve if not point.unbounded):
        yield Measure("curve_eps", point.eps, step)
        yield Measure("curve_robust_accuracy", point.accuracy.value, step)
    for point in curve:
        if point.unbounded:
            yield Measure("unbounded_accuracy", point.accuracy.value)
    distance = nearest.median(model)
    if distance is not None:
        yield Measure("nearest_distance_median", distance)


def _doubts(model: Evidence) -> Iterator[Measure]:
    """What speaks against the numbers: alarms by their gate, and items of the checklist."""
    yield Measure("alarms_fired", sum(alarm.fired for alarm in model.alarms))
    for alarm in model.alarms:
        if alarm.value is not None:
            yield Measure(f"alarm/{_part(alarm.gate)}", alarm.value)
    if model.checklist:
        states = Counter(item.state for item in model.checklist)
        yield Measure("checklist_failed", states["failed"])
        yield Measure("checklist_not_run", states["not run"])


def _beyond(model: Evidence) -> Iterator[Measure]:
    """Surveys, certificates, and what one perturbation does to all images."""
    seen: Counter[str] = Counter()
    for survey in model.surveys:
        seen[survey.survey] += 1
        again = f".{seen[survey.survey]}" if seen[survey.survey] > 1 else ""
        name = _part(survey.survey + again)
        yield Measure(f"survey_mean/{name}", surveys.average(survey))
        yield Measure(f"survey_worst/{name}", min(a.value for a in survey.conditions.values()))
    for found in model.certificates:
        subject = "" if found.subject == "file" else "smoothed_"
        key = f"{subject}certified_accuracy/{_part(found.method)}"
        yield Measure(key, found.accuracy.value)
    for row in model.attacks:
        if row.fooling is not None:
            yield Measure(f"fooling_universal/{_part(row.name)}", row.fooling.universal)
            yield Measure(f"fooling_noise/{_part(row.name)}", row.fooling.noise)


def _interval(key: str, accuracy: Accuracy) -> list[Measure]:
    return [
        Measure(key, accuracy.value),
        Measure(f"{key}_lower", accuracy.lower),
        Measure(f"{key}_upper", accuracy.upper),
    ]


def _params(facts: Mapping[str, object]) -> dict[str, str]:
    return {_key(name): _shortened(value) for name, value in _leaves(facts)}


def _leaves(value: object, name: str = "") -> Iterator[tuple[str, str]]:
    """Dotted name and text of every leaf; lists count from 0, empty ones and None are left out."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _leaves(inner, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _leaves(inner, f"{name}.{index}")
    elif isinstance(value, str):
        yield name, value
    elif value is not None:
        yield name, json.dumps(value)


def _key(name: str) -> str:
    """`name` in the characters and the length that MLflow takes."""
    clean = re.sub(r"[^\w.\- ]", "_", name, flags=re.ASCII).strip(". ") or "_"
    if len(clean) <= MAX_KEY:
        return clean
    return f"{clean[: MAX_KEY - 9]}.{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def _part(name: str) -> str:
    return _key(name)[: MAX_KEY - 20]


def _shortened(value: str) -> str:
    return value if len(value) <= MAX_VALUE else f"{value[: MAX_VALUE - 3]}..."
