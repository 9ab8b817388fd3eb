"""Certificates as tables: what is proven of a file and of its smoothed classifier."""

from statistics import median
from typing import NamedTuple

from hardening.evidence import Certificate, Evidence, RunEvidence
from hardening.report import numbers
from hardening.report.summary import ordered, robust

FILE, SMOOTHED = "file", "smoothed classifier"


class Bracket(NamedTuple):
    """Robust accuracy of one file between what is proven and what attacks left."""

    name: str
    method: str
    certified: str
    attacked: str
    status: str
    note: str


def brackets(run: RunEvidence) -> list[Bracket]:
    """Certificates of the files themselves, held against the attacks on them."""
    return [_bracket(model, found) for model, found in _of(run, FILE)]


def smoothed(run: RunEvidence) -> list[tuple[str, ...]]:
    """Certificates of smoothed classifiers: name, method, accuracy, abstained, median radius."""
    return [
        (
            model.name,
            found.method,
            numbers.accuracy(found.accuracy),
            f"{numbers.count(sum(found.abstained))} of {numbers.count(len(found.abstained))}",
            f"{numbers.plain(median(found.radii))} ({found.radius_norm})",
        )
        for model, found in _of(run, SMOOTHED)
    ]


def sentences(run: RunEvidence, subject: str) -> list[str]:
    """What a reader must know of the certificates of `subject`, each sentence once."""
    texts = dict.fromkeys(found.text for _, found in _of(run, subject))
    return [f"{text[:1].upper()}{text[1:].rstrip('.')}." for text in texts]


def broken(model: Evidence, found: Certificate) -> int:
    """Images certified of the file itself that fell to an attack on it; there can be none."""
    pairs = zip(found.certified, model.survived, strict=False)
    return sum(proven and not stands for proven, stands in pairs)


def _of(run: RunEvidence, subject: str) -> list[tuple[Evidence, Certificate]]:
    models = ordered(run)
    return [(m, found) for m in models for found in m.certificates if found.subject == subject]


def _bracket(model: Evidence, found: Certificate) -> Bracket:
    fell = broken(model, found)
    note = f"on {numbers.count(found.accuracy.images)} images"
    if fell:
        note = f"{numbers.count(fell)} certified images fell to an attack: one of the two is wrong"
    return Bracket(
        name=model.name,
        method=found.method,
        certified=numbers.accuracy(found.accuracy),
        attacked=numbers.accuracy(model.robust) if robust(model) else numbers.NOT_EVALUATED,
        status="contradiction" if fell else "",
        note=note,
    )
