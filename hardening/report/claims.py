"""The catalogue: what each defense claims, and what was seen of it, one row a candidate."""

from statistics import median
from typing import NamedTuple

from hardening.evidence import Evidence, Kind, RunEvidence, Status
from hardening.report import github, numbers, summary
from hardening.statistics import accuracy, compare
from hardening.verdict import missing_attacks

INFORMED: frozenset[Kind] = frozenset(
    {"white-box", "straight-through", "bpda", "expectation", "joint", "differential"}
)
"""Kinds of attack that follow gradients as somebody does who knows the defense."""

TITLES = (
    "Defense",
    "Claim",
    "Clean",
    "Naive",
    "Adaptive",
    "Worst case",
    "Literature",
    "Here",
    "Seen",
    "Certified",
    "Cost",
    "Mechanism",
)

BROKEN: Status = "BROKEN"
TRANSFER: Status = "TRANSFER-ONLY"
CERTIFIED: Status = "CERTIFIED"
NOTHING: Status = "NO DEFENSE"

STRENGTH: tuple[Status, ...] = (BROKEN, TRANSFER, "AT-BASED", "SOLID", CERTIFIED)
"""Weakest first."""

NONE = "–"

GAP = 0.05
"""Least share of the images by which a naive number is called too high."""


class Row(NamedTuple):
    """One candidate, as text in the order of `TITLES`; `status` is what is left of `declared`."""

    name: str
    claim: str
    clean: str
    naive: str
    adaptive: str
    worst: str
    declared: str
    status: str
    seen: str
    certified: str
    cost: str
    mechanism: str


def rows(run: RunEvidence) -> list[Row]:
    """The candidates with a defense, in the order of the run."""
    return [_row(run, model) for model in run.models.values() if model.declared]


def catalogue(run: RunEvidence) -> str:
    """The rows as a markdown file that says what its words mean."""
    body = [[github.escape(cell) for cell in row] for row in rows(run)]
    lines = [
        f"# What each defense claims and what was seen: {github.escape(run.name)}",
        "",
        *github.table(TITLES, body),
        "",
        github.escape(meaning(run)),
    ]
    return "\n".join(lines) + "\n"


def meaning(run: RunEvidence) -> str:
    """How to read the rows."""
    threat = f"{run.threat.norm} {numbers.radius(run.threat.eps)}"
    return (
        f"Of {numbers.count(run.images)} test images at {threat}. Naive: what an evaluation that "
        "does not know the defense would report. Adaptive: what stands after the attacks that "
        "follow its gradients as somebody does who knows it. Worst case: what stands after "
        "everything. Cost: training in multiples of the control's, and on this machine's clock. "
        "Literature: the status of a chain's weakest link. "
        f"Here: the same, lowered to {BROKEN} where the worst case is not better "
        f"than the control's beyond the noise (not so {TRANSFER}, which claims nothing there), "
        f"from {CERTIFIED} where nothing was proven at the threat's radius, and to "
        f"{numbers.NOT_EVALUATED} where a due attack did not run. It is never raised."
    )


def status(run: RunEvidence, model: Evidence) -> str:
    """What is left of the status that the chain of a model declares."""
    word = declared(model)
    if missing_attacks(model):
        return numbers.NOT_EVALUATED
    if word in {BROKEN, NOTHING, TRANSFER}:
        return word
    if word == CERTIFIED and any(made.accuracy.correct for made in model.certificates):
        return word
    better = compare(run.models["control"].survived, model.survived).better
    return BROKEN if not better else "SOLID" if word == CERTIFIED else word


def declared(model: Evidence) -> Status:
    """What the literature holds of a chain: of its weakest link that is a defense at all."""
    words = [defense.status for defense in model.declared]
    return min((word for word in words if word != NOTHING), key=STRENGTH.index, default=NOTHING)


def _row(run: RunEvidence, model: Evidence) -> Row:
    naive, informed = summary.naive(model), _informed(model)
    evaluated = not missing_attacks(model)
    return Row(
        name=model.name,
        claim=model.declared[-1].claim,
        clean=numbers.percent(model.clean.value),
        naive=numbers.percent(naive.accuracy.value) if naive else numbers.NOT_MEASURED,
        adaptive=NONE if informed is None else numbers.percent(informed),
        worst=numbers.percent(model.robust.value) if evaluated else numbers.NOT_EVALUATED,
        declared=declared(model),
        status=status(run, model),
        seen=_seen(run, model, informed),
        certified=", ".join(_proven(model)) or NONE,
        cost=_cost(run, model),
        mechanism="; then ".join(defense.mechanism for defense in model.declared),
    )


def _informed(model: Evidence) -> float | None:
    """What stands after the attacks that know the defense; none if there was none."""
    found = [row for row in model.attacks if row.kind in INFORMED]
    if not found:
        return None
    fell = {image for row in found for image in row.fell}
    stands = [right and place not in fell for place, right in enumerate(model.correct)]
    return accuracy(stands).value


def _proven(model: Evidence) -> list[str]:
    """What was proven at the threat's radius; elsewhere, if at none of its images there."""
    found = []
    for made in model.certificates:
        own = [radius for radius in made.radii if radius > 0]
        if made.accuracy.correct:
            found.append(f"{numbers.percent(made.accuracy.value)} ({made.subject})")
        elif own:
            share = numbers.percent(len(own) / len(made.radii))
            found.append(
                f"only in {made.radius_norm}: {share} ({made.subject}), median radius "
                f"{median(own):.2g}"
            )
    return found


def _cost(run: RunEvidence, model: Evidence) -> str:
    seconds = numbers.seconds(model.training_seconds)
    plain = run.models["control"].passes
    if model.passes is None:
        return seconds
    if not plain:
        return f"{model.passes:.1f} passes an image, {seconds}"
    return f"{model.passes / plain:.1f} x, {seconds}"


def _seen(run: RunEvidence, model: Evidence, informed: float | None) -> str:
    """What stands beside the claim."""
    if missing := missing_attacks(model):
        return f"not evaluated: {', '.join(missing)} missing"
    change = numbers.change(compare(run.models["control"].survived, model.survived))
    said = [f"worst case {change} against control"]
    naive = summary.naive(model)
    if naive is not None and naive.accuracy.value - model.robust.value > GAP:
        gap = 100 * (naive.accuracy.value - model.robust.value)
        said.append(f"{gap:.1f} pt of the naive number are no robustness")
    if informed is not None and informed - model.robust.value > GAP:
        said.append("others than its own gradients find more")
    if model.ships:
        said.append("does not ship as ONNX")
    fired = [alarm.gate for alarm in model.alarms if alarm.fired]
    if fired:
        said.append(f"alarms {', '.join(fired)}")
    return "; ".join(said)
