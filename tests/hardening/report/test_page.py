import re
from html import unescape
from html.parser import HTMLParser

import pytest

from hardening.report.page import ROWS_SHOWN, render
from hardening.report.summary import COLUMNS, table
from hardening.verdict import Gate, judge

PNG = "data:image/png;base64,"
VOID = {"meta", "link", "img", "br", "line", "rect", "circle", "polyline", "polygon", "path"}


def page_of(made, run, gate=None, artifacts=None, **how):
    gate = gate or made.gate()
    pictures = made.pictures(run, **how)
    return render(run, gate, judge(run, gate), pictures, artifacts or {"evidence": "evidence.json"})


def text_of(page):
    body = page[page.index("<body>") :]
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", body)).split())


class Outline(HTMLParser):
    """Checks that tags nest, and keeps what was opened."""

    def __init__(self):
        super().__init__()
        self.open, self.seen = [], []

    def handle_starttag(self, tag, attributes):
        self.seen.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.seen.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, self.getpos()


@pytest.fixture(scope="module")
def shapes(made):
    fired = [made.alarm("zero_gradients", 0.31)]
    many = [made.model(f"candidate {n}", robust=0.5 + n / 100) for n in range(12)]
    names = [f"a rather long class name, number {n} (with a remark)" for n in range(100)]
    return {
        "control only": made.run(made.control()),
        "control without curve, latency and gallery": made.run(
            made.control(curve=[], latency=[], alarms=[])
        ),
        "full": made.full(),
        "failing": made.run(made.control(), made.model("tuned", robust=0.3)),
        "not evaluated": made.run(made.control(), made.not_attacked()),
        "nothing evaluated": made.run(made.not_attacked("control", role="control")),
        "alarm": made.run(made.control(), made.model("masked", alarms=fired)),
        "everything": made.everything(),
        "100 classes": made.run(made.control(), *many, classes=names, shape=(3, 32, 32)),
    }


@pytest.fixture(scope="module")
def pages(made, shapes):
    return {name: page_of(made, run) for name, run in shapes.items()}


def test_every_shape_of_evidence_gives_a_page_whose_tags_nest(pages):
    for name, page in pages.items():
        outline = Outline()
        outline.feed(page)
        assert not outline.open, name


def test_the_page_asks_the_network_for_nothing(pages):
    for page in pages.values():
        outline = Outline()
        outline.feed(page)

        assert not re.search(r"(?i)url\(|@import", page)
        assert {tag for tag, _ in outline.seen}.isdisjoint({"script", "iframe", "object", "embed"})
        for tag, attributes in outline.seen:
            assert attributes.get("src", PNG).startswith(PNG)
            others = [value or "" for key, value in attributes.items() if key != "src"]
            assert not any("//" in value for value in others)
            if tag == "link":
                assert attributes["href"] == "data:,"
        assert "default-src 'none'" in page


def test_names_from_outside_are_text_and_never_markup(made):
    hostile = "<script>alert(1)</script>"
    attribute = '"><img src=x onerror=alert(1)>'
    run = made.run(
        made.control(),
        made.model(attribute),
        name=hostile,
        classes=[hostile] * 10,
        config={"model": hostile, hostile: [attribute]},
        environment={hostile: attribute},
    )
    page = page_of(made, run, artifacts={hostile: "javascript:alert(1)", "b": attribute})
    outline = Outline()
    outline.feed(page)

    assert "<script" not in page
    assert hostile in text_of(page)
    assert all(a.get("src", "data:").startswith("data:") for _, a in outline.seen)
    assert not any(name.startswith("on") for _, a in outline.seen for name in a)
    assert not any("javascript" in (a.get("href") or "") for _, a in outline.seen)


def test_every_number_of_the_table_is_on_the_page(made, shapes, pages):
    for name, run in shapes.items():
        verdict = judge(run, made.gate())
        text = text_of(pages[name])
        for row in table(run, verdict):
            for key in COLUMNS:
                assert row[key] in text


def test_without_its_due_attacks_a_model_has_no_robust_number_on_the_page(made):
    # 86.5 % is its worst case so far, 84.5 points its gain, 43.2 % the end of its curve.
    half = made.not_attacked(**made.additions(0.9, 0.1))
    run = made.run(made.control(), made.model("tuned"), half)
    page = page_of(made, run)

    for number in ("86.5", "84.5", "43.2", "43.0"):
        assert number not in page
    assert text_of(page).count("NOT EVALUATED") >= 14


def test_a_champion_without_its_due_attacks_is_compared_without_a_number(made):
    champion = made.not_attacked("champion", role="champion", robust=0.865)
    run = made.run(made.control(), made.model("tuned", robust=0.97), champion)
    text = text_of(page_of(made, run))

    assert "the champion's robust accuracy is NOT EVALUATED" in text
    assert "+10.5" not in text


def test_every_check_every_alarm_and_every_digest_is_on_the_page(made, shapes, pages):
    for name, run in shapes.items():
        verdict = judge(run, made.gate())
        text = text_of(pages[name])
        wanted = [check.name for j in verdict.judgements for check in j.checks]
        wanted += [alarm.name for m in run.models.values() for alarm in m.alarms]
        wanted += [alarm.meaning for m in run.models.values() for alarm in m.alarms]
        wanted += [m.file.sha256 for m in run.models.values()]
        wanted += [run.data.sha256, run.data.test_sha256, run.image_indices_sha256]
        wanted += [*run.environment.values(), *run.data.classes]
        for each in wanted:
            assert each in text


def test_every_survey_certificate_and_item_of_the_checklist_is_on_the_page(made):
    run = made.everything()
    text = text_of(page_of(made, run))
    models = run.models.values()
    wanted = [name.replace("_", " ") for m in models for s in m.surveys for name in s.conditions]
    wanted += [item.item for m in models for item in m.checklist]
    wanted += [item.text for m in models for item in m.checklist]
    wanted += [alarm.advice for m in models for alarm in m.alarms if alarm.fired]
    wanted += ["neither necessary nor sufficient", "Universal fooling rate", "random noise: 3.1 %"]
    wanted += ["at most 5.8 % of what stood would fall", "bounds no attack on the file"]
    wanted += ["after 200 of 1,000 images in random order at error level 0.01", "no bound"]

    for each in wanted:
        assert each in text


def test_a_run_with_little_evidence_has_no_empty_sections(made):
    page = page_of(made, made.full())

    for section in ("proofs", "beyond", "checklist"):
        assert f'id="{section}"' not in page
        assert f"#{section}" not in page[page.index("<nav") :]


def test_a_check_at_its_limit_shows_on_which_side_it_is(made):
    # 179 of 200 and 180 of 200 would both be "90 %" without decimals.
    run = made.run(made.control(), made.model("a", robust=0.895), made.model("b", robust=0.9))
    text = text_of(page_of(made, run, made.gate(robust_accuracy=0.9)))

    assert "robust accuracy at least 90.00 % 89.50 % failed 90.00 % passed" in text


def test_a_report_promises_nothing(pages):
    for page in pages.values():
        words = text_of(page).lower()
        assert not re.search(r"\b(un)?(secure[ds]?|safe(ly|ty)?|breakable)\b", words)


def test_every_picture_and_chart_has_words_for_those_who_cannot_see_it(made):
    outline = Outline()
    outline.feed(page_of(made, made.full()))
    charts = [a for tag, a in outline.seen if tag == "svg"]
    pictures = [a for tag, a in outline.seen if tag == "img"]

    assert all(a.get("aria-label") or a.get("aria-hidden") == "true" for a in charts)
    assert len(pictures) == 4 * 3 * 3
    assert all(a["alt"] for a in pictures)


def test_every_table_has_a_caption_and_headers_with_a_scope(made):
    outline = Outline()
    outline.feed(page_of(made, made.full()))
    count = [tag for tag, _ in outline.seen].count("table")

    assert [tag for tag, _ in outline.seen].count("caption") == count
    assert all(a.get("scope") in {"row", "col"} for tag, a in outline.seen if tag == "th")


def test_the_gallery_names_classes_and_says_how_much_it_amplifies(made):
    run = made.run(made.control(), made.model("tuned"), classes=["cat", "dog", "owl", "fox"])
    page = page_of(made, run)

    assert "adversarial image, classified as fox with confidence 76.5 %" in page
    assert "amplified × 5" in text_of(page)


def test_a_long_gallery_is_cut_and_says_so(made):
    text = text_of(page_of(made, made.run(made.control()), count=ROWS_SHOWN + 3))

    assert f"{ROWS_SHOWN} of {ROWS_SHOWN + 3} shown" in text


def test_without_pictures_there_is_no_gallery(made):
    run = made.run(made.control())
    page = render(run, made.gate(), judge(run, made.gate()), {}, {})

    assert "Gallery" not in page


def test_the_summary_says_what_was_tested(made):
    text = text_of(page_of(made, made.full(eps=8 / 255)))

    for words in (
        "every pixel value may change by at most 8/255 of the range (Linf)",
        "200 of the test split",
        "tuned meets the gate.",
        "Robust accuracy 59.5 % [52.6, 66.1]",
        "To be promoted: tuned beats the champion on the same 200 images",
        "a stronger attack can only lower it",
    ):
        assert words in text


def test_a_gate_without_limits_says_that_little_was_checked(made):
    run = made.run(made.control(), made.model("tuned"))

    assert "The gate sets no limits" in text_of(page_of(made, run, Gate()))
    assert "The gate sets no limits" not in text_of(page_of(made, run, Gate(clean_accuracy=0.5)))


def test_links_are_relative_paths_or_addresses(made):
    artifacts = {"file": "models/a b#1.onnx", "run": "https://mlflow.example/#/runs/1"}
    page = page_of(made, made.full(), artifacts=artifacts)

    assert 'href="models/a%20b%231.onnx"' in page
    assert 'href="https://mlflow.example/#/runs/1"' in page


def test_the_same_evidence_gives_the_same_page(made):
    assert page_of(made, made.full()) == page_of(made, made.full())


def test_what_was_chosen_for_the_user_stands_beside_what_was_tested(made):
    from hardening.report import words

    choice = "auto chose n_fgsm, 12 epochs, because"
    run = made.full()
    tuned = next(name for name, model in run.models.items() if model.role == "candidate")
    models = run.models | {tuned: run.models[tuned].model_copy(update={"choices": [choice]})}

    rows = dict(words.tested(run.model_copy(update={"models": models})))

    assert rows["Settings chosen"] == f"{tuned}: {choice}"
    assert "Settings chosen" not in dict(words.tested(run))
