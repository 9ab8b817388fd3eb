"""A run and its verdict in sentences."""

from collections.abc import Iterable, Mapping

from hardening.evidence import Decision, Evidence, Kind, RunEvidence
from hardening.report import numbers
from hardening.threat import ThreatModel
from hardening.verdict import Gate, Judgement, Verdict, missing_attacks

THREATS = {
    "linf": "every pixel value may change by at most {radius} of the range (Linf)",
    "l1": "the changes of all pixel values of an image, in [0, 1], may add up to {radius} (L1)",
    "l0": "at most {radius} values of an image may change, by any amount (L0)",
    "l2": "the change of an image, as one vector of pixel values in [0, 1], "
    "may be at most {radius} long (L2)",
}


RANKS: dict[Kind, int] = {"transfer": 1, "differential": 1, "gradient-free": 2}
"""Kinds of attack that come after those by the model's own gradients."""

FAILURES = 4
"""Models whose failures are told in a sentence; the tables have them all."""


def threat(model: ThreatModel) -> str:
    """What the adversary may do."""
    return THREATS[model.norm].format(radius=numbers.radius(model.eps))


def headline(verdict: Verdict) -> str:
    """The verdict in one sentence."""
    if verdict.chosen is not None:
        return f"{verdict.chosen} meets the gate."
    judged = [judgement.name for judgement in verdict.judgements]
    if len(judged) == 1:
        return f"{judged[0]} does not meet the gate."
    return f"None of the {len(judged)} candidates meets the gate."


def promotion(verdict: Verdict) -> str:
    """Whether the chosen model replaces the champion, and why."""
    if verdict.chosen is None:
        return "Nothing is promoted."
    outcome = "To be promoted" if verdict.promote else "Not promoted"
    return f"{outcome}: {verdict.reason}."


def measured(run: RunEvidence, verdict: Verdict) -> str:
    """The numbers of the chosen model, or what each judged model fails."""
    if verdict.chosen is not None:
        chosen = run.models[verdict.chosen]
        return (
            f"Robust accuracy {numbers.accuracy(chosen.robust)}, "
            f"clean accuracy {numbers.accuracy(chosen.clean)}."
        )
    failures = [_failure(run, judgement) for judgement in verdict.judgements]
    more = f"; and {len(failures) - FAILURES} more" if len(failures) > FAILURES else ""
    return f"{'; '.join(failures[:FAILURES])}{more}."


def meaning(run: RunEvidence) -> str:
    """What a robust accuracy says, and what it does not."""
    return (
        f"Robust accuracy is the share of these {numbers.count(run.images)} test images that "
        "stayed correctly classified under every attack that met them, taking the worst attack for "
        f"each image.{_detectors(run)} An adversarial image counted only when the exported file "
        f"itself, run by ONNX Runtime, was fooled by it.{_inside(run)} The number is what these "
        "attacks could not break under this threat model: a stronger attack can only lower it, and "
        "it says nothing about larger or other changes (rotation, blur, a sticker), nor about "
        "other data."
    )


def _inside(run: RunEvidence) -> str:
    """Which models judged for themselves."""
    names = [model.name for model in run.models.values() if model.ships]
    judged = "has no such file: the module itself judged" if len(names) == 1 else ""
    judged = judged or "have no such files: the modules themselves judged"
    return f" {', '.join(names)} {judged}." if names else ""


def _detectors(run: RunEvidence) -> str:
    """Which attacks met a sample alone."""
    names = dict.fromkeys(r.name for m in run.models.values() for r in m.attacks if r.sampled)
    if not names:
        return ""
    return (
        f" Detectors ({', '.join(names)}) met a sample of the images that stood, none of which "
        "fell to them."
    )


def tested(run: RunEvidence) -> list[tuple[str, str]]:
    """Terms and what they were in this run."""
    shape = "\u00a0×\u00a0".join(str(side) for side in run.data.shape)
    candidates = [m for m in run.models.values() if m.role == "candidate"]
    rows = [
        ("Model", _model(run.config)),
        ("Dataset", f"{run.data.name}, {len(run.data.classes)} classes, images of {shape}"),
        ("Threat", threat(run.threat)),
        ("Images", f"{numbers.count(run.images)} of the test split, the same for every model"),
        ("Attacks", ", ".join(attack_names(run.models.values())) or "none"),
    ]
    if run.decision is not None:
        rows.insert(4, ("Decided", decided(run.decision)))
    if candidates:
        rows.append(("Candidates", "; ".join(_chain(model) for model in candidates)))
    choices = [f"{m.name}: {choice}" for m in run.models.values() for choice in m.choices]
    if choices:
        rows.append(("Settings chosen", "; ".join(choices)))
    notes = [f"{model.name}: {note}" for model in run.models.values() for note in model.notes]
    notes += [f"{m.name} does not ship: {m.ships}" for m in run.models.values() if m.ships]
    if notes:
        rows.append(("To know", "; ".join(notes)))
    return rows


def decided(decision: Decision) -> str:
    """That not all images were attacked, and why that was enough."""
    return (
        f"after {numbers.count(decision.images)} of {numbers.count(decision.of)} images in random "
        f"order at error level {decision.error:g}: on which side of the gate's "
        f"{numbers.percent(decision.limit)} robust accuracy lies; every number here is of these "
        f"{numbers.count(decision.images)}"
    )


def limits(gate: Gate) -> str:
    """What the gate asks beside due attacks and alarms, when it asks nothing."""
    # What follows from beating a champion is asked of nobody else.
    others = {"max_alarms", "champion_clean_margin", "champion_latency_ratio"}
    if any(limit is not None for limit in gate.model_dump(exclude=others).values()):
        return ""
    return "The gate sets no limits: only due attacks and alarms were checked."


def attack_names(models: Iterable[Evidence]) -> list[str]:
    """Names of all attacks that ran on any model, in the order of a cascade: gradients come first.

    Models need not have met the same attacks, so the first one's order is not all of it.
    """
    kinds = {row.name: row.kind for model in models for row in model.attacks}
    return sorted(kinds, key=lambda name: RANKS.get(kinds[name], 0))


def class_name(run: RunEvidence, label: int) -> str:
    """The name of a class, or its number when the data names fewer."""
    known = 0 <= label < len(run.data.classes)
    return run.data.classes[label] if known else f"class {label}"


def _failure(run: RunEvidence, judgement: Judgement) -> str:
    missing = missing_attacks(run.models[judgement.name])
    if missing:
        notes = run.models[judgement.name].notes
        why = "; ".join([f"{', '.join(missing)} did not run", *notes])
        return f"{judgement.name} is {numbers.NOT_EVALUATED} ({why})"
    failed = ", ".join(check.name for check in judgement.checks if not check.passed)
    return f"{judgement.name} fails {failed}"


def _chain(model: Evidence) -> str:
    steps = [str(step.get("name", "unnamed")) for step in model.defenses]
    return f"{model.name} ({', '.join(steps) or 'no defense'})"


def _model(config: Mapping[str, object]) -> str:
    model = config.get("model")
    if not isinstance(model, Mapping):
        return str(model or "not named")
    if model.get("name") is None:
        return f"ONNX file, sha256 {str(config.get('model_sha256', 'unknown'))[:12]}"
    weights = model.get("weights")
    name = str(model.get("name", "not named"))
    return f"{name}, weights {weights}" if weights else name
