"""Surveys as tables: accuracy under changes beyond the threat model, one column a model."""

import json
import re
from collections.abc import Sequence
from statistics import mean
from typing import NamedTuple

from hardening.evidence import Accuracy, Evidence, RunEvidence, Survey
from hardening.report import numbers
from hardening.report.matrices import Cell, Line, Matrix
from hardening.report.summary import ordered

GRADED = re.compile(r"(.+) (\d+)")
"""A condition with a severity: `fog 3`."""

Found = Sequence[Survey | None]
"""One survey of each model, where it was made."""


class Overview(NamedTuple):
    """One survey of all models: what is seen at once, and every condition when that is more."""

    title: str
    remark: str
    matrix: Matrix
    every: Matrix | None


def overviews(run: RunEvidence) -> list[Overview]:
    """Every survey, in the order they ran; the same one with other parameters is another one."""
    models = ordered(run)
    keys = dict.fromkeys(_key(survey) for model in models for survey in model.surveys)
    return [_overview(*key, models) for key in keys]


def average(survey: Survey) -> float:
    """The mean accuracy over all conditions; without an interval: the images are the same."""
    return mean(accuracy.value for accuracy in survey.conditions.values())


def _key(survey: Survey) -> tuple[str, str]:
    return survey.survey, json.dumps(survey.params, sort_keys=True)


def _overview(title: str, params: str, models: Sequence[Evidence]) -> Overview:
    found = [next((s for s in m.surveys if _key(s) == (title, params)), None) for m in models]
    made = [survey for survey in found if survey]
    conditions = [*dict.fromkeys(name for survey in made for name in survey.conditions)]
    names = [model.name for model in models]
    clean = Line("as they are", "", "", [_accuracy(model.clean) for model in models])
    every = [_condition(name, found) for name in conditions]
    images = max(accuracy.images for survey in made for accuracy in survey.conditions.values())
    remark = f"accuracy on {numbers.count(images)} images"
    said = ", ".join(f"{key} {value}" for key, value in made[0].params.items())
    remark += f"; {said}" if said else ""
    families = _families(conditions)
    if not families:
        return Overview(title, remark, Matrix(names, [clean, *every]), None)
    averages = [Cell(numbers.percent(average(s)) if s else numbers.NOT_MEASURED) for s in found]
    lines = [
        clean,
        Line(f"mean of all {len(conditions)}", "", "", averages),
        *(_family(family, members, found) for family, members in families.items()),
    ]
    remark += "; of each family the mean, beside it every severity in per cent"
    return Overview(title, remark, Matrix(names, lines), Matrix(names, every))


def _families(conditions: list[str]) -> dict[str, list[str]]:
    """Conditions by family, weakest first; none unless all have a severity and some several."""
    found: dict[str, list[tuple[int, str]]] = {}
    for condition in conditions:
        match = GRADED.fullmatch(condition)
        if match is None:
            return {}
        found.setdefault(match[1], []).append((int(match[2]), condition))
    if len(found) == len(conditions):
        return {}
    return {family: [name for _, name in sorted(members)] for family, members in found.items()}


def _family(family: str, members: list[str], found: Found) -> Line:
    cells = []
    for survey in found:
        known = survey.conditions if survey else {}
        values = [known[member].value for member in members if member in known]
        said = " · ".join(f"{100 * value:.0f}" for value in values)
        cells.append(
            Cell(numbers.percent(mean(values)) if values else numbers.NOT_MEASURED, "", said)
        )
    return Line(family.replace("_", " "), "", "", cells)


def _condition(name: str, found: Found) -> Line:
    cells = [_accuracy(survey.conditions.get(name) if survey else None) for survey in found]
    return Line(name.replace("_", " "), "", "", cells)


def _accuracy(found: Accuracy | None) -> Cell:
    return Cell(numbers.accuracy(found) if found else numbers.NOT_MEASURED)
