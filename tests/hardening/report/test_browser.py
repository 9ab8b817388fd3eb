"""The page as a real browser lays it out."""

import html
import json
import re
import shutil
import subprocess

import numpy as np
import pytest
from PIL import Image

from hardening.report.page import render
from hardening.verdict import judge

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed"),
]

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--hide-scrollbars",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

# The page is laid out in frames of several widths; this finds what a reader would stumble over.
MEASURE = """
<script>
addEventListener("load", () => {
  const found = {};
  for (const frame of document.querySelectorAll("iframe")) {
    const page = frame.contentDocument, wide = [], covered = [];
    page.querySelectorAll("details").forEach(d => d.open = true);
    for (const svg of page.querySelectorAll("svg[role=img]")) {
      const edge = svg.getBoundingClientRect();
      const texts = [...svg.querySelectorAll("text")];
      const boxes = texts.map(t => [t.textContent, t.getBoundingClientRect()]);
      boxes.forEach(([name, a], i) => {
        if (a.left < edge.left - 1 || a.right > edge.right + 1 || a.bottom > edge.bottom + 1)
          wide.push(name);
        for (const [other, b] of boxes.slice(i + 1))
          if (Math.min(a.right, b.right) - Math.max(a.left, b.left) > 1 &&
              Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 3)
            covered.push(name + " / " + other);
      });
    }
    const spilled = [...page.querySelectorAll("th, td")]
      .filter(cell => cell.scrollWidth > cell.clientWidth + 1).map(cell => cell.textContent);
    const broken = [...page.images].filter(i => !i.naturalWidth).length;
    found[frame.width] = {
      scroll: page.documentElement.scrollWidth, wide, covered, spilled, broken,
      images: page.images.length,
    };
  }
  const out = document.createElement("pre");
  out.id = "found";
  out.textContent = JSON.stringify(found);
  document.body.append(out);
});
</script>
"""


def browse(folder, *arguments):
    command = [CHROMIUM, *FLAGS, f"--user-data-dir={folder / 'profile'}", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)


@pytest.fixture
def page(made):
    """Many models with long names, one not evaluated, 100 classes."""
    models = [made.model(f"tuned-with-a-long-name-{n}", robust=0.5 + n / 200) for n in range(8)]
    names = [f"a rather long class name, number {n}" for n in range(100)]
    champion = made.model("champion", "champion", robust=0.5)
    run = made.run(
        made.control(), *models, made.not_attacked(), champion, classes=names, shape=(3, 32, 32)
    )
    return render(run, made.gate(), judge(run, made.gate()), made.pictures(run), {"a": "b.json"})


@pytest.mark.parametrize("shape", ["many models", "everything"])
def test_nothing_overflows_and_no_label_covers_another(made, page, shape, tmp_path):
    if shape == "everything":
        run = made.everything()
        page = render(run, made.gate(), judge(run, made.gate()), made.pictures(run))
    # Without its own policy the frame may be looked into by the page around it.
    page = re.sub(r"<meta http-equiv[^>]*>", "", page)
    frames = "".join(
        f'<iframe width="{width}" height="800" srcdoc="{html.escape(page)}"></iframe>'
        for width in (360, 400, 768, 1280)
    )
    (tmp_path / "around.html").write_text(frames + MEASURE)
    dom = browse(
        tmp_path, "--virtual-time-budget=10000", "--dump-dom", f"file://{tmp_path}/around.html"
    ).stdout
    found = json.loads(html.unescape(re.search(r'<pre id="found">(.*?)</pre>', dom, re.S)[1]))

    for width, seen in found.items():
        assert seen["scroll"] <= int(width), width
        assert seen["wide"] == [], width
        assert seen["covered"] == [], width
        assert seen["spilled"] == [], width
        assert seen["images"] > 0, width
        assert seen["broken"] == 0, width


@pytest.mark.parametrize("dark", [False, True])
def test_it_opens_from_disk_in_both_colour_schemes(page, tmp_path, dark):
    (tmp_path / "report.html").write_text(page)
    scheme = ["--blink-settings=preferredColorScheme=0"] if dark else []
    done = browse(
        tmp_path,
        *scheme,
        "--window-size=1280,900",
        "--enable-logging=stderr",
        f"--screenshot={tmp_path / 'shot.png'}",
        f"file://{tmp_path}/report.html",
    )
    shot = np.asarray(Image.open(tmp_path / "shot.png").convert("L"))

    assert shot.shape == (900, 1280)
    assert (shot[:10].mean() < 60) == dark
    assert shot.std() > 10
    assert "Content Security Policy" not in done.stderr
    assert "net::ERR" not in done.stderr
