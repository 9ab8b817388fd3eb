"""Carlini et al.'s checklist, item by item: https://arxiv.org/abs/1902.06705.

The list is neither necessary nor sufficient, as its authors say themselves: it collects mistakes
that broke evaluations before, and a model without robustness can pass every item. So what a program
can check is checked, and the rest is asked of the user, never ticked in silence.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Literal, NamedTuple

from hardening.errors import ConfigError
from hardening.evidence import Alarm, ChecklistItem, Evidence
from hardening.spec import suggest
from hardening.threat import ThreatModel
from hardening.verdict import missing_attacks

Section = Literal["severe", "pitfalls", "special"]
State = Literal["passed", "failed", "not run", "to state"]

HARD_LABEL = frozenset({"hopskipjump", "substitute"})
"""Attacks that see labels only, by the names that evidence keeps."""

TARGETED = frozenset({"fab"})
"""Attacks that always aim at one class after the other; others say so by their loss."""


class Finding(NamedTuple):
    """What there is to say of one item."""

    state: State
    text: str


class Run(NamedTuple):
    """What an item looks at; `alarms` by gate, without those that had nothing to measure."""

    model: Evidence
    threat: ThreatModel
    alarms: dict[str, Alarm]


Check = Callable[[Run], Finding]


def checklist(
    model: Evidence, threat: ThreatModel, statements: Mapping[str, str]
) -> list[ChecklistItem]:
    """Every item: passed, failed, not run, or what the user must state.

    Args:
        model: What was measured; its own checklist is not read.
        threat: What the adversary may do.
        statements: The user's words on the items of `STATEMENTS`; empty ones count as missing.

    Raises:
        ConfigError: A statement is about no item that asks for one.
    """
    for item in statements:
        if item not in STATEMENTS:
            raise ConfigError(f"statements: unknown item {item!r}, {suggest(item, STATEMENTS)}")
    measured = {alarm.gate: alarm for alarm in model.alarms if alarm.value is not None}
    run = Run(model, threat, measured)
    items = []
    for section, entries in ITEMS.items():
        for item, check in entries.items():
            if isinstance(check, str):
                state, text = _stated(check, statements.get(item, "").strip())
            else:
                state, text = check(run)
            items.append(ChecklistItem(item=item, section=section, state=state, text=text))
    return items


def _stated(question: str, answer: str) -> Finding:
    return Finding("passed", f"Stated: {answer}") if answer else Finding("to state", question)


def _all_of(*gates: str) -> Check:
    """Every one of these gates was measured and is quiet."""

    def check(run: Run) -> Finding:
        found = _fired_or_figures(run, gates)
        missing = [gate for gate in gates if gate not in run.alarms]
        if missing and found.state != "failed":
            return Finding("not run", f"{', '.join(missing)} not measured")
        return found

    return check


def _any_of(*gates: str) -> Check:
    """At least one of these gates was measured, and none fired."""
    return lambda run: _fired_or_figures(run, gates)


def _fired_or_figures(run: Run, gates: tuple[str, ...]) -> Finding:
    measured = [run.alarms[gate] for gate in gates if gate in run.alarms]
    if not measured:
        return Finding("not run", f"{', '.join(gates)} not measured")
    fired = [alarm for alarm in measured if alarm.fired]
    text = "; ".join(
        f"{alarm.gate} {alarm.name}: {alarm.value:.3g}, at most {alarm.limit:.3g}"
        for alarm in fired or measured
    )
    return Finding("failed" if fired else "passed", text)


def _threat(run: Run) -> Finding:
    text = (
        f"{run.threat} within the pixel range; any wrong label counts; the adversary knows the "
        "file, its weights and every defense"
    )
    return Finding("passed", text)


def _adaptive(run: Run) -> Finding:
    if not run.model.attacks:
        return Finding("not run", "no attack ran")
    missing = missing_attacks(run.model)
    if missing:
        return Finding("failed", f"due and not run, or with too little effort: {_list(missing)}")
    return Finding("passed", f"due and run end to end: {_list(run.model.due)}")


def _clean(run: Run) -> Finding:
    clean = run.model.clean
    return Finding("passed", f"{clean.correct} of {clean.images} right without an attack")


def _curve(run: Run) -> Finding:
    curve = sorted(run.model.curve, key=lambda point: point.eps)
    if len(curve) < 3:
        return Finding("not run", f"a curve of {len(curve)} points is none")
    last = curve[-1]
    text = f"{last.accuracy.correct} of {last.accuracy.images} stand at eps {last.eps:.3g}, the end"
    return Finding("passed" if last.accuracy.correct <= 1 else "failed", text)


def _described(run: Run) -> Finding:
    if not run.model.attacks:
        return Finding("not run", "no attack ran")
    names = _list([row.name for row in run.model.attacks])
    return Finding("passed", f"each row carries all its hyper-parameters: {names}")


def _diverse(run: Run) -> Finding:
    if not run.model.attacks:
        return Finding("not run", "no attack ran")
    names = dict.fromkeys(row.attack for row in run.model.attacks)
    return Finding("passed" if len(names) > 1 else "failed", f"different attacks: {_list(names)}")


def _hard_label(run: Run) -> Finding:
    rows = [row for row in run.model.attacks if row.attack in HARD_LABEL]
    if not rows:
        return Finding("not run", "no attack that sees labels only")
    fell = sum(len(row.fell) for row in rows if row.kind == "gradient-free")
    names = _list([row.name for row in rows])
    return Finding("failed" if fell > 1 else "passed", f"{names}: {fell} fell to it alone")


def _randomness(run: Run) -> Finding:
    alarm = run.alarms.get("G1")
    averaged = any(row.kind == "expectation" for row in run.model.attacks)
    if averaged and (alarm is None or alarm.fired):
        return Finding("passed", "the model is random and was attacked by expectation")
    if alarm is None:
        return Finding("not run", "G1 not measured")
    if not alarm.fired:
        return Finding("passed", "the model gives one answer to one image")
    return Finding("failed", "the model is random and was not attacked by expectation")


def _differentiable(run: Run) -> Finding:
    """G6 has nothing to say where gradients are a stand-in on purpose: G5 must have spoken."""
    found = _fired_or_figures(run, ("G5", "G6"))
    if "G5" not in run.alarms and found.state != "failed":
        return Finding("not run", "G5 not measured")
    through = [row.name for row in run.model.attacks if row.kind in {"bpda", "straight-through"}]
    return found._replace(
        text=f"{found.text}; through stand-ins: {_list(through)}" if through else found.text
    )


def _broader(run: Run) -> Finding:
    names = [survey.survey for survey in run.model.surveys]
    return Finding("passed" if names else "not run", f"surveys: {_list(names)}")


def _provable(run: Run) -> Finding:
    found = run.model.certificates
    if not found:
        return Finding("not run", "no certificate was asked for")
    for certificate in found:
        pairs = zip(certificate.certified, run.model.survived, strict=True)
        broken = sum(proven and not stands for proven, stands in pairs)
        if certificate.subject == "file" and broken:
            text = f"{certificate.method}: {broken} images proven robust fell to an attack"
            return Finding("failed", text)
    figures = [f"{made.method} {made.accuracy.value:.3g}, of the {made.subject}" for made in found]
    return Finding("passed", f"certified accuracy: {_list(figures)}")


def _targeted(run: Run) -> Finding:
    if not run.model.attacks:
        return Finding("not run", "no attack ran")
    aimed = [
        row.name
        for row in run.model.attacks
        if row.attack in TARGETED or "targeted" in str(row.params.get("loss", ""))
    ]
    both = 0 < len(aimed) < len(run.model.attacks)
    return Finding("passed" if both else "failed", f"aimed at a class: {_list(aimed)}")


def _images_only(run: Run) -> Finding:  # noqa: ARG001
    return Finding("passed", "said of images only; nothing is claimed of other inputs")


def _worst_case(run: Run) -> Finding:
    rows = len(run.model.attacks)
    text = f"an image counts as robust only if it stands under every one of {rows} attacks"
    if sampled := [row.name for row in run.model.attacks if row.sampled]:
        text += f"; {_list(sampled)} met a sample, none of which fell"
    return Finding("passed" if rows else "not run", text)


def _list(names: Iterable[str]) -> str:
    return ", ".join(names) or "none"


ITEMS: dict[Section, dict[str, Check | str]] = {
    "severe": {
        "own thinking": "Which items do not apply here, and what would an adversary who knows this "
        "model try? The list is neither necessary nor sufficient (its authors' own warning, "
        "https://arxiv.org/abs/1902.06705): it catches known mistakes and proves nothing.",
        "threat model": _threat,
        "threat justification": "Whom does this norm and eps stand for, and why is it realistic?",
        "adaptive attacks": _adaptive,
        "adaptive objective": "Why do the attacked losses fit this defense?",
        "models and code": "Where can others get the model and run it in one line?",
        "clean accuracy": _clean,
        "iterative beats single-step": _all_of("G7"),
        "success grows with the budget": _all_of("G9"),
        "unbounded attacks succeed": _all_of("G8"),
        "success against budget": _curve,
        "adaptive attacks beat others": _any_of("G10", "G11", "G15"),
        "attacks described": _described,
    },
    "pitfalls": {
        "diverse attacks": _diverse,
        "gradient-free attack": _all_of("G10"),
        "hard-label attack": _hard_label,
        "transfer attack": _all_of("G11"),
        "randomness": _randomness,
        "non-differentiable parts": _differentiable,
        "attacks converged": _all_of("G12"),
        "hyper-parameters": _all_of("G13", "G14"),
        "prior work": "How does this compare with published results, and why does it differ?",
        "broader threat models": _broader,
    },
    "special": {
        "provable bounds": _provable,
        "random noise": _all_of("G15"),
        "targeted and untargeted": _targeted,
        "ablations": "What does each part of the defense contribute, and why are they combined?",
        "attacks validated": _all_of("G17"),
        "other domains": _images_only,
        "worst case per image": _worst_case,
    },
}
"""A question where only the user can answer, else how the item is checked."""

STATEMENTS: tuple[str, ...] = tuple(
    item for entries in ITEMS.values() for item, check in entries.items() if isinstance(check, str)
)
"""The items that ask the user."""
