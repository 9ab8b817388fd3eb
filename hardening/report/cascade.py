"""What every attack met and broke, one column a model."""

import json
from statistics import median

from hardening.evidence import AttackRow, Disagreement, Evidence
from hardening.report import numbers, words
from hardening.report.matrices import Cell, Line, Matrix
from hardening.report.summary import robust
from hardening.statistics import upper_bound_of_none

COSTS = (
    "Kind", "Led by", "Parameters", "Attacked", "Fell", "Accuracy after it", "Median distance",
    "Unconfirmed", "Lost in 8 bits", "Forwards", "Backwards", "Budget", "Time",
    "Adversarial images, sha256",
)  # fmt: skip
"""Titles of what `costs` says of an attack."""


def cascade_matrix(models: list[Evidence]) -> Matrix:
    """Every attack in the order they ran: how many images it met, broke and left."""
    lines = []
    for name in words.attack_names(models):
        found = [(m, next((row for row in m.attacks if row.name == name), None)) for m in models]
        kinds = ", ".join(dict.fromkeys(row.kind for _, row in found if row))
        lines.append(Line(name, kinds, "", [_cell(model, row) for model, row in found]))
    if any(model.probed for model in models):
        cells = [Cell(f"{numbers.count(len(model.probed))} fell") for model in models]
        lines.append(Line("probes", "behind alarms and distances", "", cells))
    return Matrix([model.name for model in models], lines)


def after(model: Evidence, row: AttackRow) -> str:
    """What stands after an attack: by the last one the robust accuracy, so shown as that is."""
    return numbers.accuracy(row.accuracy) if robust(model) else numbers.NOT_EVALUATED


def bound(row: AttackRow) -> str:
    """What the silence of a detector says of the images it did not meet; empty for others."""
    if not row.sampled or row.fell or not row.attacked:
        return ""
    most = numbers.percent(upper_bound_of_none(row.attacked))
    return f"at most {most} of what stood would fall (95 %)"


def fooling_matrix(models: list[Evidence]) -> Matrix:
    """One perturbation for all images beside random noise; no rows when none was looked for."""
    names = dict.fromkeys(r.name for model in models for r in model.attacks if r.fooling)
    lines = []
    for name in names:
        cells = [_fooling(next((r for r in m.attacks if r.name == name), None)) for m in models]
        lines.append(Line(name, "", "", cells))
    return Matrix([model.name for model in models], lines)


def disagreement_matrix(models: list[Evidence]) -> Matrix:
    """Where quantized files part from the files they were made from; no rows when none is."""
    found = [next((r.disagreement for r in m.attacks if r.disagreement), None) for m in models]
    if not any(found):
        return Matrix([], [])
    said = {
        "File wrong, parent right": [d.evasive if d else None for d in found],
        "Other label on the image as it is": [d.flips if d else None for d in found],
    }
    lines = [
        Line(head, "", "", [_share(n, d) for n, d in zip(counts, found, strict=True)])
        for head, counts in said.items()
    ]
    return Matrix([model.name for model in models], lines)


def costs(model: Evidence, row: AttackRow) -> list[str]:
    """What an attack used and found, in the order of `COSTS`."""
    through = [{"through": row.through}] if row.through else []
    return [
        row.kind,
        row.source,
        "; ".join(json.dumps(said) for said in (row.params, *through)),
        f"{numbers.count(row.attacked)}{' (sample)' if row.sampled else ''}",
        numbers.count(len(row.fell)),
        after(model, row),
        numbers.plain(median(row.distance)) if row.distance else "none",
        numbers.count(row.unconfirmed),
        numbers.count(row.lost_in_8_bits),
        f"{row.forwards:,.1f}",
        f"{row.backwards:,.1f}",
        f"{numbers.count(row.budget_forwards)} + {numbers.count(row.budget_backwards)}",
        numbers.seconds(row.seconds),
        " ".join(digest[:12] for digest in row.adversarial),
    ]


def _cell(model: Evidence, row: AttackRow | None) -> Cell:
    if row is None:
        return Cell("", "did not run")
    text = f"{numbers.count(len(row.fell))} of {numbers.count(row.attacked)} fell"
    left = f"{after(model, row)} stand" if robust(model) else numbers.NOT_EVALUATED
    if not row.sampled:
        return Cell(text, "", left)
    return Cell(text, "sample", "; ".join(filter(None, (bound(row), left))))


def _share(count: int | None, found: Disagreement | None) -> Cell:
    if count is None or found is None:
        return Cell("", "not compared")
    images = f"{numbers.count(count)} of {numbers.count(found.images)}"
    return Cell(numbers.percent(count / found.images), "", images)


def _fooling(row: AttackRow | None) -> Cell:
    if row is None or row.fooling is None:
        return Cell("", "did not run")
    noise = numbers.percent(row.fooling.noise)
    return Cell(numbers.percent(row.fooling.universal), "", f"random noise: {noise}")
