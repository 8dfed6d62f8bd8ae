"""The report as a real browser shows it: headless Chromium, light and dark, wide and narrow."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
import zlib
from collections import Counter
from pathlib import Path

import pytest

from attn_export.pipeline.report.page import render
from tests.pipeline.reports import manifest, report

pytestmark = pytest.mark.slow

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
QUIET = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
)  # fmt: skip
DARK = "--blink-settings=preferredColorScheme=0"


@pytest.fixture(scope="module")
def browser() -> str:
    if CHROMIUM:
        return CHROMIUM
    if os.environ.get("CI") == "true":
        pytest.fail("CI must render the report in a real browser: apt-get install chromium")
    pytest.skip("no Chromium here: apt-get install chromium")


def run(browser: str, folder: Path, *options: str) -> str:
    page = folder / "report.html"
    command = [browser, *QUIET, f"--user-data-dir={folder / 'profile'}", *options, page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    return done.stdout


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "report.html").write_text(render(manifest(), report()), encoding="utf-8")
    return tmp_path


def colours(file: Path) -> Counter[tuple[int, ...]]:
    """How often each colour occurs in an 8-bit PNG without a palette; every fourth row is looked at."""
    data = file.read_bytes()
    at, packed, wide, tall, channels = 8, b"", 0, 0, 3
    while at < len(data):
        length, kind = struct.unpack(">I4s", data[at : at + 8])
        chunk = data[at + 8 : at + 8 + length]
        if kind == b"IHDR":
            wide, tall, depth, colour = struct.unpack(">IIBB", chunk[:10])
            assert (depth, colour) in ((8, 2), (8, 6))
            channels = 4 if colour == 6 else 3
        packed += chunk if kind == b"IDAT" else b""
        at += 12 + length
    raw, stride = zlib.decompress(packed), wide * channels
    previous, found = bytearray(stride), Counter[tuple[int, ...]]()
    for row in range(tall):
        place = row * (stride + 1)
        line = bytearray(raw[place + 1 : place + 1 + stride])
        _unfilter(raw[place], line, previous, channels)
        if row % 4 == 0:
            found.update(zip(*(line[c::channels] for c in range(3)), strict=True))
        previous = line
    return found


def _unfilter(kind: int, line: bytearray, above: bytearray, step: int) -> None:
    for i in range(len(line)) if kind else ():
        left = line[i - step] if i >= step else 0
        corner = above[i - step] if i >= step else 0
        guess = left + above[i] - corner
        nearest = min(
            (abs(guess - left), 0, left), (abs(guess - above[i]), 1, above[i]), (abs(guess - corner), 2, corner)
        )
        line[i] = (line[i] + (0, left, above[i], (left + above[i]) // 2, nearest[2])[kind]) & 255


@pytest.mark.parametrize(("options", "ground"), [((), (251, 251, 250)), ((DARK,), (19, 21, 24))], ids=["light", "dark"])
def test_it_is_painted_in_the_theme_that_is_asked_for(
    browser: str, folder: Path, options: tuple[str, ...], ground: tuple[int, ...]
) -> None:
    picture = folder / "page.png"
    run(browser, folder, *options, "--window-size=700,500", f"--screenshot={picture}")
    found = colours(picture)
    assert found[ground] > 0.2 * found.total(), found.most_common(3)
    assert len(found) > 20, "there is text on it"


def test_the_browser_finds_nothing_to_repair_and_nothing_overflows(browser: str, folder: Path) -> None:
    probe = (
        "<script>addEventListener('load', () => { const d = document, out = d.body.dataset;"
        "const charts = [...d.querySelectorAll('svg')];"
        "out.wide = d.documentElement.scrollWidth - innerWidth;"
        "out.charts = charts.length;"
        "out.flat = charts.filter(s => s.getBoundingClientRect().height < 20).length;"
        "out.cut = charts.filter(s => { const b = s.getBBox(), v = s.viewBox.baseVal;"
        " return b.x < -1 || b.x + b.width > v.width + 1 || b.y + b.height > v.height + 1 }).length;"
        "d.querySelector('.skip').focus(); out.skip = d.activeElement.className;"
        "out.requests = performance.getEntriesByType('resource').length });</script></body>"
    )
    file = folder / "report.html"
    bad = render(manifest(), report(good=False))  # the longest bars and notes
    file.write_text(bad.replace("</body>", probe), encoding="utf-8")
    for width in (1100, 520):
        came = run(browser, folder, f"--window-size={width},900", "--dump-dom")
        for wanted in ('data-flat="0"', 'data-charts="7"', 'data-skip="skip"', 'data-requests="0"', 'data-cut="0"'):
            assert wanted in came, f"{wanted} at {width}: {came[came.find('<body') :][:300]}"
        assert int(came.partition('data-wide="')[2].partition('"')[0]) <= 0, f"it scrolls sideways at {width}"


def test_the_overflow_probe_can_fail(browser: str, folder: Path) -> None:
    file = folder / "report.html"
    measure = "document.body.dataset.wide = document.documentElement.scrollWidth - innerWidth"
    wide = f'<div style="width:3000px">x</div><script>{measure}</script></body>'
    file.write_text(file.read_text(encoding="utf-8").replace("</body>", wide), encoding="utf-8")
    came = run(browser, folder, "--window-size=1100,900", "--dump-dom")
    assert int(came.partition('data-wide="')[2].partition('"')[0]) > 0
