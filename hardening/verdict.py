"""From evidence to a decision: a pure function that anyone can recompute offline."""

from math import isfinite

from pydantic import Field

from hardening.evidence import QUANTIZED, AttackRow, Evidence, Kind, RunEvidence
from hardening.spec import Record
from hardening.statistics import Comparison, compare
from hardening.threat import Number

MINIMUM: dict[Kind, tuple[int, int]] = {
    "white-box": (20, 20),
    "straight-through": (20, 20),
    "expectation": (20, 20),
    "bpda": (20, 20),
    "joint": (20, 20),
    "transfer": (10, 10),
    "differential": (20, 20),
    "gradient-free": (100, 0),
}
"""Forward and backward passes that an attack must be ready to spend on one image, from one start
and towards one class, to count as one of its kind: a due attack is not met by a token one."""

LEAST_SAMPLE = 50
"""Images that an attack without gradients must meet when it was a detector on a sample."""

ROUGH = frozenset({"deepfool", "universal", "substitute", "noise"})
"""Attacks that never meet a due kind: they stop at the first border they come to, try once per
image, however much they learnt before, or do not look."""


SHIPS = "ships as ONNX"
"""The check that a model fails which does not survive export: it is measured, never promoted."""


class Gate(Record):
    """The limits a candidate must meet; a limit that is not given is not checked.

    Accuracies and differences are fractions, latency is the median in milliseconds at batch 1.
    Drops and gains are against `control` on the same images; a gain must also be real
    (McNemar's exact test at 5 %). What replaces a champion must be more robust beyond the noise,
    its clean accuracy not lower by more than `champion_clean_margin` (at 97.5 %, paired), and its
    latency at most `champion_latency_ratio` times the champion's in the same run.
    """

    clean_accuracy: Number | None = Field(default=None, ge=0, le=1)
    robust_accuracy: Number | None = Field(default=None, ge=0, le=1)
    max_clean_drop: Number | None = Field(default=None, ge=0, le=1)
    min_robust_gain: Number | None = Field(default=None, ge=0, le=1)
    max_latency_ms: Number | None = Field(default=None, gt=0)
    max_alarms: int = Field(default=0, ge=0)
    champion_clean_margin: Number = Field(default=0.03, ge=0, le=1)
    champion_latency_ratio: Number | None = Field(default=1.5, gt=0)


class Check(Record):
    """One named comparison of a measured value with its limit."""

    name: str
    value: float | None
    limit: float
    passed: bool
    text: str


class Judgement(Record):
    """The checks of one model."""

    name: str
    status: str
    passed: bool
    checks: list[Check]


class Verdict(Record):
    """Whether any candidate passed, which one is chosen, and why."""

    passed: bool
    chosen: str | None
    judgements: list[Judgement]
    against_champion: Comparison | None
    promote: bool
    reason: str


def judge(run: RunEvidence, gate: Gate) -> Verdict:
    """Judge every candidate of `run` and choose the most robust one that passes.

    Raises:
        ValueError: The evidence holds no `control`.
    """
    if "control" not in run.models:
        raise ValueError("got evidence without `control`, expected the unhardened model in it")
    candidates = [m for m in run.models.values() if m.role == "candidate"]
    # With no candidates the existing model itself is what is judged.
    judged = candidates or [run.models["control"]]
    judgements = [_judge_one(model, run.models["control"], gate) for model in judged]
    passing = [m for m, j in zip(judged, judgements, strict=True) if j.passed]
    if not passing:
        return Verdict(
            passed=False,
            chosen=None,
            judgements=judgements,
            against_champion=None,
            promote=False,
            reason=f"{'no candidate meets' if candidates else 'control does not meet'} the gate",
        )
    chosen = max(passing, key=lambda m: (m.robust.value, m.clean.value, -m.file.bytes))
    champion = next((m for m in run.models.values() if m.role == "champion"), None)
    if champion is None:
        against, promote, reason = None, True, f"{chosen.name} passes and there is no champion"
    elif champion.file.identity == chosen.file.identity:
        against, promote, reason = None, False, f"{chosen.name} is the champion already"
    elif missing := missing_attacks(champion):
        # What it survived is no robust accuracy: not all was tried that is due.
        why = "; ".join([", ".join(missing), *champion.notes])
        against, promote = None, False
        reason = f"the champion's robust accuracy is NOT EVALUATED, due attacks are missing: {why}"
    else:
        against = compare(champion.survived, chosen.survived)
        worse = _inferior(champion, chosen, gate)
        promote = against.better and not worse
        says = "beats" if against.better else "does not beat"
        reason = (
            f"{chosen.name} {says} the champion on the same {run.images} images: robust accuracy "
            f"{against.difference:+.1%} [{against.lower:+.1%}, {against.upper:+.1%}], "
            f"p {against.p_value:.2g}"
        )
        if against.better and worse:
            reason += f"; not promoted: {'; '.join(worse)}"
    return Verdict(
        passed=True,
        chosen=chosen.name,
        judgements=judgements,
        against_champion=against,
        promote=promote,
        reason=reason,
    )


def missing_attacks(model: Evidence) -> list[str]:
    """The kinds of attack that are due against `model` and did not run with enough effort.

    By a file's own gradients an attack is of the one kind that `File.gradients` says, and meets
    what it stands for: straight through a quantized file it passes what a defense rounds there,
    too. An attack by expectation is the white-box attack on a random model, a joint one that on a
    model with a detector, where they are due. What must transfer to a quantized file is what fools
    its float parent.
    """
    quantized = model.file.precision in QUANTIZED
    ran = {
        row.kind
        for row in model.attacks
        if is_serious(row) and not (quantized and row.kind == "transfer" and row.source != "parent")
    }
    if "straight-through" in ran:
        ran |= {"bpda", "white-box"}
    if "bpda" in ran or {"expectation", "joint"} & ran & {*model.due}:
        ran.add("white-box")
    return [kind for kind in model.due if kind not in ran]


def is_serious(row: AttackRow) -> bool:
    """Whether an attack was ready to spend what its kind needs at least, on enough images.

    A detector that met a sample counts only without gradients: it is there to raise an alarm.
    """
    forwards, backwards = MINIMUM[row.kind]
    sample = row.kind == "gradient-free" and row.attacked >= LEAST_SAMPLE
    if row.attack in ROUGH or (row.sampled and not sample):
        return False
    enough = row.budget_forwards >= forwards * row.starts
    return enough and row.budget_backwards >= backwards * row.starts


def _inferior(champion: Evidence, chosen: Evidence, gate: Gate) -> list[str]:
    """What a newcomer is worse in than the champion, beyond what the gate forgives."""
    worse = []
    clean = compare(champion.correct, chosen.correct)
    if clean.lower < -gate.champion_clean_margin:
        worse.append(
            f"clean accuracy may be {-clean.lower:.1%} below the champion's, limit "
            f"{gate.champion_clean_margin:.1%}"
        )
    if gate.champion_latency_ratio is not None:
        ours, theirs = latency(chosen), latency(champion)
        if ours is None or theirs is None:
            worse.append("latency was not measured")
        elif not ours <= gate.champion_latency_ratio * theirs:
            worse.append(
                f"latency is {ours / theirs:.2f} x the champion's, limit "
                f"{gate.champion_latency_ratio:g} x"
            )
    return worse


def latency(model: Evidence) -> float | None:
    """Median milliseconds at batch 1, None where nobody measured it."""
    return next((entry.p50_ms for entry in model.latency if entry.batch == 1), None)


def _judge_one(model: Evidence, control: Evidence, gate: Gate) -> Judgement:
    missing = missing_attacks(model)
    fired = [alarm.name for alarm in model.alarms if alarm.fired]
    gain = compare(control.survived, model.survived)
    drop = control.clean.value - model.clean.value
    why = "; ".join([", ".join(missing), *model.notes]) if missing else ""
    checks = [
        _check("due attacks missing", len(missing), 0, at_most=True, text=why),
        _check("alarms", len(fired), gate.max_alarms, at_most=True, text=", ".join(fired)),
    ]
    if model.ships:
        checks.append(_check(SHIPS, 0, 1, text=model.ships))
    if gate.clean_accuracy is not None:
        checks.append(_check("clean accuracy", model.clean.value, gate.clean_accuracy))
    if gate.robust_accuracy is not None:
        checks.append(_check("robust accuracy", model.robust.value, gate.robust_accuracy))
    if gate.max_clean_drop is not None:
        checks.append(_check("clean drop", drop, gate.max_clean_drop, at_most=True))
    if gate.min_robust_gain is not None:
        check = _check("robust gain", gain.difference, gate.min_robust_gain)
        real = gain.better or gate.min_robust_gain == 0
        checks.append(
            check.model_copy(
                update={
                    "passed": check.passed and real,
                    "text": f"[{gain.lower:+.3f}, {gain.upper:+.3f}], p {gain.p_value:.2g}",
                }
            )
        )
    if gate.max_latency_ms is not None:
        checks.append(_check("latency p50 ms", latency(model), gate.max_latency_ms, at_most=True))
    passed = all(check.passed for check in checks)
    status = "NOT EVALUATED" if missing else "passed" if passed else "failed"
    return Judgement(name=model.name, status=status, passed=passed, checks=checks)


def _check(
    name: str, value: float | None, limit: float, *, at_most: bool = False, text: str = ""
) -> Check:
    """A missing or non-finite value never passes. One part in 1e9 forgives decimal rounding."""
    slack = 1e-9
    if value is None or not isfinite(value):
        return Check(name=name, value=None, limit=limit, passed=False, text="not measured")
    passed = value <= limit + slack if at_most else value >= limit - slack
    return Check(name=name, value=value, limit=limit, passed=passed, text=text)
