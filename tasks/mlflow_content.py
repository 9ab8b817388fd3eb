"""What MLflow is told about a run: parameters, numbers and tags, all known before it is asked."""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from math import isfinite
from typing import NamedTuple

from hardening.errors import NumericsError
from hardening.evidence import Accuracy, Evidence, RunEvidence
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
    judged = f"{gate.model_dump_json()}{verdict.model_dump_json()}".encode()
    return {
        "temper.evidence": digest,
        "temper.judgement": hashlib.sha256(judged).hexdigest(),
        "temper.verdict": "passed" if verdict.passed else "failed",
        "temper.chosen": verdict.chosen or "",
        "temper.promote": str(verdict.promote).lower(),
        "temper.threat": str(run.threat),
        "temper.data": run.data.sha256,
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
        "temper.sha256": model.file.sha256,
        "temper.verdict": status,
    }


def model_measures(model: Evidence) -> list[Measure]:
    """All numbers of one model; point i of the curve is step i of `curve_eps` and its accuracy.

    Raises:
        NumericsError: One of them is not finite: MLflow would store NaN without a word.
    """
    # No robust number without its due attacks: it would be read without its caveat.
    evaluated = not missing_attacks(model)
    measures = [
        *_interval("clean_accuracy", model.clean),
        *(_interval("robust_accuracy", model.robust) if evaluated else []),
        *(Measure(f"accuracy/{_part(row.name)}", row.accuracy.value) for row in model.attacks),
        Measure("size_bytes", model.file.bytes),
        Measure("training_seconds", model.training_seconds),
        Measure("alarms_fired", sum(alarm.fired for alarm in model.alarms)),
    ]
    for entry in model.latency:
        measures.append(Measure(f"latency_p50_ms/batch_{entry.batch}", entry.p50_ms))
        measures.append(Measure(f"latency_p95_ms/batch_{entry.batch}", entry.p95_ms))
    curve = sorted(model.curve, key=lambda point: point.eps) if evaluated else []
    for step, point in enumerate(curve):
        measures.append(Measure("curve_eps", point.eps, step))
        measures.append(Measure("curve_robust_accuracy", point.accuracy.value, step))
    for measure in measures:
        if not isfinite(measure.value):
            raise NumericsError(
                f"model {model.name!r}: {measure.key} is {measure.value}, expected a finite number"
            )
    return measures


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
