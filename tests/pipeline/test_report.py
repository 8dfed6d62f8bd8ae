"""The report in every format: what it must say, what it must not let through, and that failures show."""

from __future__ import annotations

import copy
import itertools
import json
import re
import time
from html.parser import HTMLParser
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
import pytest

from attn_export.deploy_tests.latency.comparison import summarise
from attn_export.deploy_tests.parity.metrics import figures, verdicts
from attn_export.pipeline.report import svg
from attn_export.pipeline.report.content import checks, headline, origin, verdict
from attn_export.pipeline.report.formats import junit, markdown, sarif
from attn_export.pipeline.report.page import render
from tests.pipeline.reports import HOSTILE, manifest, report
from tests.pipeline.schema import MANIFEST, REPORT, faults

VOID = {"meta", "br", "hr", "input", "link", "rect", "circle", "line", "polyline"}


class Page(HTMLParser):
    """Tags in order, ids, and whether every tag is closed in turn."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes something else"

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] != "style":
            self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module")
def page() -> Page:
    return Page(render(manifest(), report()))


def test_the_page_is_well_formed_and_offline(page: Page) -> None:
    assert not page.open
    assert not page.all("script")
    assert not page.all("link")
    assert not page.all("img")
    for tag, attributes in page.tags:
        for name in ("src", "href", "action"):
            assert not (attributes.get(name) or "#").startswith(("http", "//")), (tag, attributes)
        assert not any(name.startswith("on") for name in attributes), "no inline handlers"
    source = render(manifest(), report())
    assert "url(" not in source
    assert "@import" not in source


def test_the_verdict_comes_first(page: Page) -> None:
    top = page.text[: page.text.index("Stages")]
    said = headline(manifest(), report())
    assert "all 5 checks passed" in top
    assert said
    assert all(" ".join(text.split()) in " ".join(top.split()) for text in said)


def test_every_part_is_there_and_shows_what_it_is_for() -> None:
    fate = {
        "kind": "bias",
        "margin": 0.0,
        "caught_by_audit": "",
        "reason": "k > 4",
        "normalized_error": None,
        "name": "bias dropped",
    }
    counts = {"mode": "fast", "possible": 2, "tried": 2, "killed": 1, "survived": 1, "equivalent": 0, "invalid": 0}
    fates = [{**fate, "verdict": "killed"}, {**fate, "verdict": "survived", "name": "one weight +1 %"}]
    truth, content = np.linspace(1, 2, 10), report()
    for row in content["runs"][0]["parity"]["comparisons"]:
        row |= {"other_rules": verdicts(truth * 1.01, truth), "metrics": figures(truth * 1.01, truth)}
    text = Page(render(manifest() | {"mutation": {**counts, "mutants": fates}}, content)).text
    runtime = "ONNX Runtime 1.2.3 (CPU)"
    wanted = {
        "Every proof with its answer": ("parity on TensorRT– not run", "✓ passed", "one warning"),
        "What each stage gave": ("export", "fuse", "Certificate of the fusion", "Bits under dyadic weights", "stem"),
        "Not fused": ("it does not pay", "--cost none"),
        f"Error on {runtime}": ("the float32 noise floor", "the dashed line is the limit"),
        "What other tools": ("1e-3", "1e-5", "cosine", "PSNR", "top-1", "0 of 2", "2 of 2"),
        "Figures of all 2": ("t4 · b=1", "t4 · b=2", "with its limit", "SNR in dB", "largest difference"),
        f"Latency on {runtime}": (
            "p99",
            "cold start",
            "peak memory",
            "A/A control",
            "One dot",
            "p90 in ms",
            "Over time",
        ),
        "What disturbed": ("load is 3; stop what else runs",),
        "kernels in a run": ("GFLOP/s", "ReorderOutput", "stages.4", "MFLOP", "of peak", "limited by"),
        "the runtime’s own": ("TensorRT– not run no GPU here",),
        "Faults injected": ("killed", "survived"),
        "Where the bundle was made": ("processor", "governor", "libraries"),
        "On any machine": ("attn-export verify", "attn-export bench", "sha256 of each file", "model.onnx"),
    }
    places = [text.index(part) for part in wanted]
    assert places == sorted(places)
    for (part, words), start, end in zip(wanted.items(), places, [*places[1:], None], strict=True):
        for word in words:
            assert word.lower() in text[start:end].lower(), (part, word)


def test_where_it_ran_is_said_if_it_is_not_where_it_was_made() -> None:
    content = report()
    assert "Where it ran" not in Page(render(manifest(), content)).text
    content["runs"][0]["environment"] = {**content["runs"][0]["environment"], "processor": "Cortex-A78AE"}
    elsewhere = Page(render(manifest(), content)).text
    assert "Cortex-A78AE" in elsewhere[elsewhere.index("Where it ran on ONNX Runtime 1.2.3 (CPU)") :]


def test_the_page_can_be_used_by_keyboard_and_screen_reader(page: Page) -> None:
    tags = [tag for tag, _ in page.tags]
    assert [tags.count(tag) for tag in ("header", "main", "nav", "footer", "h1")] == [1] * 5
    assert page.all("html")[0]["lang"] == "en"
    first_link = page.all("a")[0]
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert first_link["class"] == "skip"
    assert len(ids) == len(set(ids)), "ids are unique"
    for link in page.all("a"):
        assert (link["href"] or "")[1:] in ids, f"{link['href']} leads nowhere"
    levels = [int(tag[1]) for tag in tags if re.fullmatch(r"h\d", tag)]
    assert all(b - a <= 1 for a, b in itertools.pairwise(levels)), "no heading level is skipped"
    assert len(page.all("caption")) == len(page.all("table"))
    assert all(cell.get("scope") in ("col", "row") for cell in page.all("th"))
    for picture in page.all("svg"):
        assert picture["role"] == "img"
        assert all(name in ids for name in (picture["aria-labelledby"] or "").split())
    assert len(page.all("svg")) == 7
    for area in (a for t, a in page.tags if a.get("class") == "scroll"):
        assert area["tabindex"] == "0"
        assert area["aria-label"]
    for section in page.all("section"):
        assert section["aria-labelledby"] in ids


def test_colours_are_readable_in_light_and_dark() -> None:
    source = render(manifest(), report())
    light, dark = re.findall(r":root\{(.*?)\}", source)
    for theme in (light, dark):
        colour = dict(pair.split(":") for pair in theme.replace("--", "").split(";"))
        for text, ground in (
            ("ink", "bg"), ("ink", "card"), ("soft", "card"), ("soft", "bg"), ("blue", "card"), ("good", "goodbg"),
            ("bad", "badbg"), ("doubt", "doubtbg"), ("ink", "goodbg"),
        ):  # fmt: skip
            assert _contrast(colour[text], colour[ground]) >= 4.5, (text, ground)


def _contrast(one: str, other: str) -> float:
    """WCAG 2's contrast ratio."""

    def light(colour: str) -> float:
        digits = colour.lstrip("#")
        digits = "".join(2 * d for d in digits) if len(digits) == 3 else digits
        parts = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
        r, g, b = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
        return 0.2126 * r + 0.7152 * g + 0.0722 * b

    low, high = sorted((light(one), light(other)))
    return (high + 0.05) / (low + 0.05)


def test_contrast_is_measured_as_the_standard_says() -> None:
    assert _contrast("#000", "#fff") == pytest.approx(21)
    assert _contrast("#777", "#fff") == pytest.approx(4.48, abs=0.01)


def test_hostile_names_stay_text() -> None:
    hostile = manifest(name=HOSTILE)
    hostile["warnings"] = [HOSTILE]
    hostile["costs"]["nodes"][0]["module"] = HOSTILE
    bad = report(case=HOSTILE, good=False)
    page = Page(render(hostile, bad, HOSTILE))
    assert not page.all("script")
    assert "<script>alert" in page.text
    assert ET.fromstring(junit(hostile, bad)).tag == "testsuites"
    assert json.loads(sarif(hostile, bad))["version"] == "2.1.0"
    table = [line for line in markdown(hostile, bad).splitlines() if line.startswith("|") and "script" in line]
    assert table
    for line in table:
        assert len(re.findall(r"(?<!\\)\|", line)) == 4, "a name cannot add a column"
        assert not re.search(r"(?<!\\)<script", line)


@pytest.mark.parametrize(("good", "answer"), [(True, "passed"), (False, "failed")])
def test_the_answer_is_the_same_in_every_format(good: bool, answer: str) -> None:
    m, r = manifest(), report(good=good)
    rows = checks(m, r)
    failed = sum(row.answer == "failed" for row in rows)
    assert failed == (0 if good else 3)
    assert verdict(rows)[0] == answer
    assert f'class="verdict {answer}"' in render(m, r)
    suites = ET.fromstring(junit(m, r))
    assert int(suites.attrib["failures"]) == len(suites.findall(".//failure")) == failed
    assert int(suites.attrib["skipped"]) == len(suites.findall(".//skipped")) == 1
    assert int(suites.attrib["tests"]) == len(suites.findall(".//testcase")) == len(rows)
    levels = [result["level"] for result in json.loads(sarif(m, r))["runs"][0]["results"]]
    assert levels.count("error") == failed
    assert levels.count("note") == 1
    assert markdown(m, r).startswith("### ✅" if good else "### ❌")


def test_failures_point_at_the_line_they_come_from() -> None:
    results = json.loads(sarif(manifest(), report(good=False)))["runs"][0]["results"]
    places = [r["locations"][0]["physicalLocation"] for r in results if r["ruleId"] == "parity" and "locations" in r]
    assert places[0] == {"artifactLocation": {"uri": "file:///src/net.py"}, "region": {"startLine": 5}}
    assert len(places) == 2


def test_a_failure_points_at_the_module_where_no_line_is_known() -> None:
    m = manifest()
    for row in m["costs"]["nodes"]:
        row["source"] = ""
    results = json.loads(sarif(m, report(good=False)))["runs"][0]["results"]
    assert results[0]["locations"] == [{"logicalLocations": [{"fullyQualifiedName": "stages.4", "kind": "module"}]}]
    m["costs"]["nodes"][-1]["module"] = ""
    assert origin(m, "t4") == "stages.3", "the nearest before it that is known"
    assert origin({}, "t4") == ""


def test_every_sarif_result_names_a_declared_rule() -> None:
    run = json.loads(sarif(manifest(), report(good=False)))["runs"][0]
    rules = {rule["id"] for rule in run["tool"]["driver"]["rules"]}
    assert run["results"]
    assert {result["ruleId"] for result in run["results"]} <= rules


#: A comparison whose control left 1.
VOIDED = json.loads(json.dumps(summarise([(-0.1, 0.2 + 0.001 * i) for i in range(5)]).to_dict("fused", "original")))


def doubted(parity: dict[str, Any]) -> None:
    """One output outside the user's own tolerance, and the record says so."""
    parity["comparisons"][0]["user_tolerance_failure"], parity["ok"] = "beyond", False


@pytest.mark.parametrize(
    ("change", "answer", "sentence"),
    [
        (lambda r: r["runs"].clear(), "inconclusive", "nothing was proven"),
        (lambda r: r["runs"][0]["parity"].update(comparisons=[], ok=False), "inconclusive", "cannot say"),
        (lambda r: r["runs"][0]["comparison"].update(VOIDED), "inconclusive", "1 of 6 checks"),
        (lambda r: r["runs"].pop(0), "inconclusive", "nothing was proven"),
        (lambda r: doubted(r["runs"][0]["parity"]), "failed", "1 of 6"),
    ],
)
def test_what_is_not_proven_never_passes(change: Any, answer: str, sentence: str) -> None:
    r = report()
    change(r)
    came = verdict(checks(manifest(), r))
    assert came[0] == answer
    assert sentence in came[1]
    assert answer in render(manifest(), r)


def test_mutants_are_shown_where_the_manifest_has_them() -> None:
    fate = {"kind": "bias", "margin": 0.0, "caught_by_audit": "", "reason": "k > 4"}
    fates = [
        {"name": "bias dropped", "verdict": "killed", "normalized_error": None, **fate},
        {
            "name": "one weight +1 %",
            "verdict": "survived",
            "normalized_error": 0.3,
            **fate,
            "caught_by_audit": "weights",
        },
    ]
    counts = {"mode": "fast", "possible": 30, "tried": 2, "killed": 1, "survived": 1, "equivalent": 0, "invalid": 0}
    m = manifest() | {"mutation": {**counts, "mutants": fates}}
    page = Page(render(m, report()))
    assert not page.open
    assert "1 of 2 were caught" in page.text
    assert page.text.index("one weight +1 %") < page.text.index("bias dropped"), "what survived comes first"
    assert verdict(checks(m, report()))[0] == "passed"
    vacuous = m | {"mutation": {**counts, "mutants": fates, "vacuous": ["zeros"]}}
    assert verdict(checks(vacuous, report()))[0] == "inconclusive"
    assert "the gate passes zeros" in render(vacuous, report())


@pytest.mark.parametrize(
    ("ok", "error", "answer"), [(True, 10.5, "passed"), (False, 10.5, "failed"), (True, 24.1, "inconclusive")]
)
def test_the_audits_are_shown_and_decides(ok: bool, error: float, answer: str) -> None:
    audit = {"ok": ok, "checked": 30, "findings": [] if ok else ["conv.weight"], "unmatched": ["Gemm_1"]}
    layer = {"tensor": "t", "op": "Gemm", "node": "Gemm_16", "channel": 6, "error_ulp": error}
    audits = {"constants": audit, "layers": {"error_ulp_limit": 24.0, "checked": 55, "worst": [layer]}}
    m = manifest() | {"audits": audits}
    text = Page(render(m, report())).text
    assert "graph audit" in text
    assert f"30 compared, {int(not ok)} differ, 1 written by a stage" in text
    assert f"worst Gemm Gemm_16: {error:.3g} ulp (limit 24)" in text
    assert verdict(checks(m, report()))[0] == answer
    assert ("<failure" in junit(m, report())) is (answer == "failed")


def test_an_old_report_without_the_newer_parts_is_rendered() -> None:
    r = report()
    run = r["runs"][0]
    for name in (
        "footprint",
        "preflight",
        "budgets",
        "mlperf",
        "drift",
        "sweeps",
        "profile",
        "comparison",
    ):
        del run[name]
    del run["latency"]["runs"], run["latency"]["samples"]["every"]
    m = manifest()
    for name in ("costs", "fusion", "warnings"):
        del m[name]
    m["fusion"] = None
    page = Page(render(m, r))
    assert not page.open
    assert "p50" in page.text
    assert not faults(r)


def test_the_report_keeps_its_schema() -> None:
    assert faults(report()) == []
    assert faults(report(good=False)) == []
    json.dumps(report(good=False), allow_nan=False)


@pytest.mark.parametrize(
    ("path", "value", "why"),
    [
        (("runs",), {}, "wanted"),
        (("runs", 0, "backend"), 3, "wanted"),
        (("runs", 0, "parity", "ok"), "yes", "wanted"),
        (("runs", 0, "latency", "threads"), 0, "below 1"),
        (("runs", 0, "latency", "samples", "wall_ns"), [], "0 items"),
        (("runs", 0, "comparison", "verdict"), "better", "none of"),
        (("runs", 0, "sweeps", "sizes"), [], "unknown"),
        (("runs", 0, "profile", "rows", 0, "limited_by"), "luck", "none of"),
    ],
)
def test_what_breaks_the_schema_is_found(path: tuple[Any, ...], value: Any, why: str) -> None:
    broken = copy.deepcopy(report())
    place: Any = broken
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    assert any(why in fault for fault in faults(broken)), faults(broken)


def test_every_definition_of_the_schemas_is_used() -> None:
    for schema in (MANIFEST, REPORT):
        text = json.dumps(schema)
        for name in schema["$defs"]:
            assert f'"#/$defs/{name}"' in text


def test_a_report_of_300_nodes_is_small_and_quick() -> None:
    m, r = manifest(300), report(300)
    render(m, r)
    began = time.perf_counter()
    page = render(m, r)
    assert len(page.encode()) < 1_000_000
    assert time.perf_counter() - began < 5


def test_pictures_say_in_words_what_they_show() -> None:
    came = svg.bounded("k", [("good", 1.0, "1.0"), ("bad", 9.0, "9.0"), ("none", None, "?")], 4.0, "title <&>")
    assert "2 lie beyond it" in came
    assert came.count('class="bar bad"') == 2
    assert "title &lt;&amp;&gt;" in came
    ET.fromstring(came)
    for picture in (
        svg.histogram("h", [1.0] * 5, {"p50": 1.0}, "flat"),
        svg.ratios("r", [("a", [1.0], (1.0, 1.0, 1.0))], "one"),
        svg.shares("s", [], "none"),
        svg.line("l", [(1.0, 0.0)], "one point", "x", "y"),
    ):
        ET.fromstring(picture)
        assert "nan" not in picture
        assert "inf" not in picture


def test_outliers_do_not_squeeze_the_distribution_and_are_counted() -> None:
    body = [1.0 + 0.001 * i for i in range(194)]
    came = svg.histogram("h", [*body, *[40.0] * 5, 95.0], {"p50": 1.1, "p99": 40.0}, "six outliers")
    places = [float(x) for x in re.findall(r'<rect class="bar" x="([\d.]+)"', came)]
    assert max(places) - min(places) > 0.2 * svg.WIDTH, "what is usual fills a good part of the axis"
    words = re.findall(r'class="tick beyond"[^>]*>([^<]*)', came)
    assert words[0] == "6 beyond"
    assert words[2:] == ["95 ms", "p99"]
    assert "6 lie beyond the axis, up to 95 ms" in came, "and those who do not see it hear it"
    assert len(re.findall('class="mark', came)) == 1, "a mark beyond the axis is not drawn on it"
    calm = svg.histogram("h", body, {"p50": 1.1}, "none")
    assert "beyond" not in calm
    tall = [float(h) for h in re.findall(r'<rect class="bar"[^>]* height="([\d.]+)"', came)]
    assert tall[-1] < 0.7 * max(tall) or len(tall) > 8, "outliers are gathered in no bar"


def test_bars_are_as_long_as_their_values() -> None:
    came = svg.shares("s", [("a", 0.5, "a"), ("b", 0.25, "b")], "t")
    wide = [float(w) for w in re.findall(r'<rect class="bar"[^>]* width="([\d.]+)"', came)]
    assert wide[0] == pytest.approx(2 * wide[1], rel=0.01)
