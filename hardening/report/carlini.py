"""The checklist of Carlini et al., arXiv 1902.06705, as tables."""

from collections import Counter
from typing import NamedTuple

from hardening.evidence import ChecklistItem, Evidence
from hardening.report.matrices import Cell, Line, Matrix

SECTIONS = {
    "severe": "Severe flaws",
    "pitfalls": "Common pitfalls",
    "special": "Special cases",
}

STATES = ("failed", "not run", "to state", "passed")


class Section(NamedTuple):
    """One part of the checklist; `urgent` when an item of it failed."""

    title: str
    summary: str
    urgent: bool
    matrix: Matrix


def sections(models: list[Evidence]) -> list[Section]:
    """The parts that have items, each with one column a model that was checked."""
    checked = [model for model in models if model.checklist]
    return [
        found
        for key, title in SECTIONS.items()
        if (found := _section(key, title, checked)).matrix.rows
    ]


def _section(key: str, title: str, models: list[Evidence]) -> Section:
    items = {
        model.name: {item.item: item for item in model.checklist if item.section == key}
        for model in models
    }
    names = dict.fromkeys(name for found in items.values() for name in found)
    lines = [_line(name, [items[model.name].get(name) for model in models]) for name in names]
    states: Counter[str] = Counter(
        item.state for found in items.values() for item in found.values()
    )
    summary = ", ".join(f"{states[state]} {state}" for state in STATES if states[state])
    return Section(
        title, summary, states["failed"] > 0, Matrix([model.name for model in models], lines)
    )


def _line(name: str, found: list[ChecklistItem | None]) -> Line:
    """What is said of all models in the same words stands once, beside the item."""
    texts = {item.text for item in found if item}
    shared = texts.pop() if len(texts) == 1 and len(found) > 1 else ""
    cells = [
        Cell("", item.state, "" if shared else item.text) if item else Cell("", "not applied")
        for item in found
    ]
    return Line(name, shared, "", cells)
