"""One HTML file that shows a run: no network, no script, opened from disk."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from urllib.parse import quote, urlsplit

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from hardening.evidence import RunEvidence
from hardening.report import (
    carlini,
    cascade,
    claims,
    cost,
    curves,
    figures,
    matrices,
    nearest,
    numbers,
    pictures,
    proofs,
    summary,
    surveys,
    words,
)
from hardening.report.pictures import Picture
from hardening.verdict import Gate, Verdict

__all__ = ["Picture", "render"]

HERE = Path(__file__).parent
LINKED = {"", "file", "http", "https"}

ROWS_SHOWN = 6
"""Examples shown for each model; the rest stays in the evidence."""

TONES = {
    "passed": "good",
    "ran": "good",
    "failed": "bad",
    "fired": "bad",
    "alarm": "bad",
    "contradiction": "bad",
    "not run": "warn",
    numbers.NOT_EVALUATED: "warn",
}


def render(
    run: RunEvidence,
    gate: Gate,
    verdict: Verdict,
    gallery: Mapping[str, list[Picture]],
    artifacts: Mapping[str, str] = MappingProxyType({}),
) -> str:
    """The report as one self-contained HTML page.

    `gallery` has the pictures of each model by its name; `artifacts` has, by a title, where other
    files and pages of the run are: a path relative to the report, or an address.
    """
    environment = Environment(
        loader=FileSystemLoader(HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(interval=_interval, yaml=_yaml, markup=Markup)
    models = summary.ordered(run)
    return environment.get_template("template.html.j2").render(
        run=run,
        gate=gate,
        verdict=verdict,
        models=models,
        columns=summary.columns(run),
        rows=summary.table(run, verdict),
        tones=TONES,
        css=Markup((HERE / "style.css").read_text(encoding="utf-8")),  # noqa: S704 (our own file)
        words=words,
        numbers=numbers,
        figures=figures,
        curves=curves,
        nearest=nearest,
        proofs=proofs,
        proven=any(model.certificates for model in models),
        surveys=surveys.overviews(run),
        checklist=carlini.sections(models),
        cascade_matrix=cascade.cascade_matrix(models),
        disagreement_matrix=cascade.disagreement_matrix(models),
        fooling_matrix=cascade.fooling_matrix(models),
        cost_matrix=cost.cost_matrix(models),
        claims=claims,
        claimed=claims.rows(run),
        gate_matrix=matrices.gate_matrix(run, verdict),
        alarm_matrix=matrices.alarm_matrix(models),
        due_matrix=matrices.due_matrix(models),
        gallery=_gallery(run, gallery),
        artifacts=[(title, at, _link(at)) for title, at in artifacts.items()],
        cascade=cascade,
    )


def _gallery(run: RunEvidence, gallery: Mapping[str, list[Picture]]) -> list[dict[str, object]]:
    factor = pictures.amplification(p for found in gallery.values() for p in found)
    names = [model.name for model in summary.ordered(run) if gallery.get(model.name)]
    return [
        {
            "name": name,
            "factor": factor,
            "found": len(gallery[name]),
            "cards": [_card(run, p, factor) for p in gallery[name][:ROWS_SHOWN]],
        }
        for name in names
    ]


def _card(run: RunEvidence, picture: Picture, factor: int) -> dict[str, object]:
    example = picture.example
    label = words.class_name(run, example.label)
    before = words.class_name(run, example.clean_prediction)
    after = words.class_name(run, example.adversarial_prediction)
    width = pictures.shown_width(picture.clean.shape[-1])
    changed = pictures.difference(picture, factor)
    return {
        "label": label,
        "attack": example.attack,
        "index": example.index,
        "width": width,
        "crisp": width >= picture.clean.shape[-1],
        "images": [
            (
                "clean",
                pictures.data_uri(picture.clean),
                before,
                numbers.percent(example.clean_confidence),
                example.clean_prediction == example.label,
            ),
            (
                "adversarial",
                pictures.data_uri(picture.adversarial),
                after,
                numbers.percent(example.adversarial_confidence),
                example.adversarial_prediction == example.label,
            ),
            ("difference", pictures.data_uri(changed), "", f"× {factor}", None),
        ],
    }


def _interval(text: str) -> Markup:
    """A number, and below it the interval in small print."""
    number, bracket, rest = text.partition(" [")
    if not bracket:
        return escape(number)
    return Markup('{} <span class="interval">[{}</span>').format(number, rest)


def _yaml(value: object) -> str:
    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True).strip()


def _link(at: str) -> str:
    """What an anchor may point to; empty for anything a browser might run."""
    scheme = urlsplit(at).scheme
    if scheme not in LINKED:
        return ""
    return at if scheme else quote(at)
