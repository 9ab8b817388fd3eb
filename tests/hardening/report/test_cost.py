"""Size, speed and memory in a report."""

import pytest

from hardening.evidence import Disagreement, Latency, Memory
from hardening.report.cost import cost_matrix
from hardening.report.page import render
from hardening.verdict import judge


@pytest.fixture
def models(made):
    def model(name, size, rate, **more):
        built = made.control() if name == "control" else made.model(name)
        speed = Latency(batch=32, p50_ms=3200 / rate, p95_ms=3500 / rate, images_per_second=rate)
        file = built.file.model_copy(update={"bytes": size, "sha256": f"{name:x<64}"})
        return built.model_copy(update={"file": file, "latency": [speed], **more})

    control, tuned, int8 = (
        model(*facts)
        for facts in (("control", 1000, 100.0), ("tuned", 2000, 200.0), ("int8", 500, 700.0))
    )
    parted = Disagreement(parent=tuned.file.sha256, images=200, flips=3, evasive=17)
    rows = [int8.attacks[0].model_copy(update={"disagreement": parted}), *int8.attacks[1:]]
    memory = Memory(batch=32, peak_bytes=7_000_000)
    return [control, tuned, int8.model_copy(update={"attacks": rows, "memory": memory})]


def test_a_quantized_file_is_compared_with_its_parent_and_others_with_control(models):
    rows = {row.head: row.cells for row in cost_matrix(models).rows}

    assert [cell.note for cell in rows["Size"]] == ["", "2.00 × control", "0.25 × tuned"]
    assert [cell.text for cell in rows["Images per second, by 32"]] == ["100", "200", "700"]
    assert rows["Images per second, by 32"][2].note == "3.50 × tuned"
    assert rows["Time of 32 images, median"][0].text == "32.0 ms"
    assert [cell.status for cell in rows["Memory, by 32"]] == ["not measured", "not measured", ""]
    assert rows["Memory, by 32"][2].text == "7.00 MB"


def test_the_page_tells_cost_and_where_a_file_parts_from_its_parent(made, models):
    def page_of(*models):
        run, gate = made.run(*models), made.gate()
        return render(run, gate, judge(run, gate), made.pictures(run))

    page = page_of(*models)

    assert "0.25 × tuned" in page
    assert "Where a quantized file parts from its float32 parent" in page
    assert "8.5 %" in page
    assert "17 of 200" in page
    assert "3 of 200" in page
    assert "Where a quantized file" not in page_of(*models[:2])
