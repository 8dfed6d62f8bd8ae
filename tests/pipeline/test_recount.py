"""A report's verdicts are made of its figures again; where the record says otherwise, that is a check that failed."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from attn_export import bundle
from attn_export.bundle import figures
from attn_export.bundle import manifest as manifests
from attn_export.errors import BundleError
from attn_export.pipeline.report import recount
from attn_export.pipeline.report.content import checks, headline, verdict
from attn_export.pipeline.report.formats import junit, markdown, sarif
from attn_export.pipeline.report.page import render
from attn_export.untrusted import fields
from tests.pipeline.reports import manifest, report
from tests.test_bundle_claims import made
from tests.tools.run import run

Plain = dict[str, Any]


def first(content: Plain) -> Plain:
    run_: Plain = content["runs"][0]
    return run_


def row(content: Plain, **changes: Any) -> None:
    first(content)["parity"]["comparisons"][0].update(changes)


FATE = {"name": "bias dropped", "kind": "bias", "verdict": "killed", "normalized_error": None}
ZEROS = {"name": "zeros", "kind": "zeros", "verdict": "survived", "normalized_error": 0.1}
COUNTS = {"possible": 2, "killed": 2, "survived": 0}
AUDIT = {"ok": True, "checked": 3, "findings": [{"check": "a", "where": "b", "detail": "c"}], "unmatched": []}
LAYER = {"tensor": "t", "op": "Gemm", "node": "n", "channel": 0, "error_ulp": 1.0}

#: Each lie with what must be said of it.
LIES: dict[str, tuple[Callable[[Plain, Plain], object], str, str]] = {
    "a small k beside a large error": (
        lambda m, r: row(r, error=1.0),
        "failed",
        "the normalized error is recorded as 0.4, but",
    ),
    "no k": (lambda m, r: row(r, normalized_error=None), "failed", "is recorded as ∞"),
    "an error that is not there": (
        lambda m, r: row(r, error=None),
        "failed",
        "there is neither an error nor a failure",
    ),
    "no bound": (lambda m, r: row(r, error_limit=0.0), "failed", "but the error limit is zero"),
    "a ratio that the error forbids": (lambda m, r: row(r, snr_db=150.0), "failed", "dB at most"),
    "an endless ratio": (
        lambda m, r: row(r, error=1e-3, normalized_error=40.0, snr_db=None),
        "failed",
        "no signal-to-noise ratio",
    ),
    "a bound of k = 1e30": (
        lambda m, r: [
            row(r, error=1.0, normalized_error=4e4, snr_db=None),
            first(r)["parity"].update(normalized_limit=1e30),
        ],
        "failed",
        "no more than 4x counts",
    ),
    "ok, and it is not": (
        lambda m, r: row(r, error=2e-4, normalized_error=8.0, snr_db=90.0),
        "failed",
        "the record says that parity holds, but by its figures it fails",
    ),
    "not ok, and it is": (lambda m, r: first(r)["parity"].update(ok=False), "failed", "by its figures it holds"),
    "held to dB that the bundle does not know": (
        lambda m, r: first(r)["parity"].update(snr_db_limit=-6000.0),
        "failed",
        "it is held to -6000 dB, the bundle to the float32 noise floor",
    ),
    "held to k, and the bundle to dB": (
        lambda m, r: m["artifacts"][0]["tolerance"].update(snr_db_limit=40.0),
        "failed",
        "it is held to the float32 noise floor, the bundle to 40 dB",
    ),
    "a case left out": (
        lambda m, r: m.update(cases=["b=1", "b=2", "b=9"], outputs=[{"name": "t4"}]),
        "failed",
        "1 of 3 comparisons are missing, such as t4 of case 'b=9'",
    ),
    "a case twice": (
        lambda m, r: first(r)["parity"]["comparisons"].append(first(r)["parity"]["comparisons"][0]),
        "failed",
        "is in it twice",
    ),
    "faster": (
        lambda m, r: first(r)["comparison"].update(pairs=[[1.0, 1.0 + 0.01 * i] for i in range(5)]),
        "failed",
        "the record says 'faster', but its process pairs give",
    ),
    "a control that was void": (
        lambda m, r: first(r)["comparison"].update(pairs=[[0.9, 1.3], [0.9, 1.31], [0.9, 1.3]]),
        "failed",
        "its process pairs give 'void'",
    ),
    "a better ratio": (
        lambda m, r: first(r)["comparison"]["ratio"].update(estimate=0.5),
        "failed",
        "the ratio is recorded as 0.500",
    ),
    "a narrower control": (
        lambda m, r: first(r)["comparison"]["control"].update(low=0.9999),
        "failed",
        "the control is recorded as",
    ),
    "a budget that was broken": (
        lambda m, r: first(r)["budgets"][0]["measured"].update(low=30.0, high=40.0),
        "failed",
        "the record says 'passed', but its figures give 'failed'",
    ),
    "a budget of another limit": (
        lambda m, r: first(r)["budgets"][0].update(limit=2000.0),
        "failed",
        "it is held to 2000, which is not what it says",
    ),
    "a fault that was not caught": (
        lambda m, r: m.update(mutation={**COUNTS, "mutants": [FATE, {**FATE, "verdict": "survived"}]}),
        "failed",
        "the record says 2 killed and 0 survived, but its mutants give 1 and 1",
    ),
    "zeros that pass": (
        lambda m, r: m.update(mutation={"possible": 2, "killed": 1, "survived": 1, "mutants": [FATE, ZEROS]}),
        "failed",
        "the record does not say that zeros passes",
    ),
    "an audit with findings": (
        lambda m, r: m.update(audits={"constants": AUDIT}),
        "failed",
        "3 compared, 1 differ, and the record says that all is well",
    ),
    "an audit without": (
        lambda m, r: m.update(audits={"constants": {**AUDIT, "ok": False, "findings": []}}),
        "failed",
        "0 differ, and the record says that not all is well",
    ),
    "a layer beyond the bound of all": (
        lambda m, r: m.update(
            audits={"layers": {"error_ulp_limit": 1e9, "checked": 2, "worst": [LAYER, {**LAYER, "error_ulp": 70.0}]}}
        ),
        "inconclusive",
        "70 ulp (limit 24)",
    ),
}


@pytest.mark.parametrize("lie", LIES)
def test_what_does_not_follow_from_the_figures_is_said(lie: str) -> None:
    m, r = manifest(), report()
    assert verdict(checks(m, r))[0] == "passed"
    change, answer, words = LIES[lie]
    change(m, r)
    figures.check(r, "report.json")  # it is a report, as far as its form goes
    rows = [row for row in checks(m, r) if row.answer == answer]
    assert any(words in row.text for row in rows), [row.text for row in checks(m, r)]
    assert verdict(checks(m, r))[0] == answer
    assert f'class="verdict {answer}"' in render(m, r)


def test_the_ratio_that_is_shown_is_that_of_the_pairs() -> None:
    m, r = manifest(), report()
    first(r)["comparison"].update(verdict="slower", ratio={"estimate": 9.0, "low": 8.0, "high": 10.0})
    assert any(line.startswith("fused is faster: original / fused = 1.10") for line in headline(m, r))
    page = render(m, r)
    assert "9.000" not in page.split('id="checks"')[1].split("latency-h")[1]


def test_pairs_that_give_no_interval_are_void() -> None:
    for pairs in ([], [[1.0, 1.0]], [[0.0, 1.0], [1.0, 1.0]], [[1e300, 1e-300], [1e-300, 1e300]]):
        contest, odd = recount.comparison({**first(report())["comparison"], "pairs": pairs})
        assert contest is None
        assert odd == "its process pairs give no interval"


def test_a_coarser_precision_is_held_to_its_ratio() -> None:
    m, r = manifest(), report()
    m["artifacts"][0]["tolerance"]["snr_db_limit"], first(r)["parity"]["snr_db_limit"] = 40.0, 40.0
    assert verdict(checks(m, r))[0] == "passed"
    row(r, error=1.0, normalized_error=4e4, snr_db=30.0)
    first(r)["parity"]["ok"] = False
    assert [check.name for check in checks(m, r) if check.answer == "failed"] == ["t4 of case 'b=1'"]


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to every key of an object, in one of each list."""
    for key, item in value.items() if isinstance(value, dict) else list(enumerate(value))[:1]:
        if isinstance(value, dict):
            yield (*path, key)
        if isinstance(item, dict | list):
            yield from places(item, (*path, key))


def without(value: Plain, path: tuple[Any, ...]) -> Plain:
    """A copy without the key at the end of ``path``."""
    changed = place = copy.deepcopy(value)
    for step in path[:-1]:
        place = place[step]
    del place[path[-1]]
    return changed


def test_whatever_may_be_left_out_is_missed_by_nothing_that_shows_it(tmp_path: Path) -> None:
    m, r = manifest(2), report(2)
    loss = {"int8_before": 0.1, "int8_after": 0.1, "fp16_before": 0.1, "fp16_after": 0.1}
    m["fusion"]["sites"] = [{"name": "s", "structure": True, "error": 1e-15, "precision": loss}]
    m["mutation"] = {**COUNTS, "mutants": [FATE, ZEROS], "vacuous": [], "equivalent": 0, "invalid": 0}
    layers = {"error_ulp_limit": 24.0, "checked": 2, "worst": [LAYER]}
    m["audits"] = {"constants": AUDIT, "layers": layers}
    plan = {"kernels": 1, "fused_attention": 0, "dtypes": {}, "memory_bytes": {}, "layers": []}
    built = {"level": "E1", "claim": "c", "meaning": "m", "executed": False, "product": "p", "version": "1", "sm": "86"}
    r["compiled"] = [{**built, "sha256": "a", "plan": plan, "build_s": 1.0, "flags": {}, "warnings": []}]
    for run_ in r["runs"][:1]:
        run_["parity"]["comparisons"][0] |= {"other_rules": {"a": True}, "metrics": {"max_abs": 0.1}}
    made(tmp_path / "two")
    own = json.loads((tmp_path / "two" / bundle.MANIFEST).read_text())
    own |= {key: value for key, value in m.items() if key not in ("schema_version", "files", "subject", "attn_export")}
    each = [(without(own, path), r) for path in places(own)] + [(own, without(r, path)) for path in places(r)]
    left = [(one, other) for one, other in each if valid(one, other)]
    assert 60 < len(left) < len(each)
    bare_m, bare_r = own, r
    for path in reversed(list(places(own))):
        bare_m = shorter if valid(shorter := without(bare_m, path), r) else bare_m
    for path in reversed(list(places(r))):
        bare_r = shorter if valid(own, shorter := without(bare_r, path)) else bare_r
    for one, other in [(own, r), (bare_m, bare_r), (own, bare_r), (bare_m, r), *left[::10]]:
        assert render(fields.plain(manifests.check(one, "")), figures.filled(other, ""))
    for one, other in left:
        for show in (markdown, junit, sarif):
            assert show(fields.plain(manifests.check(one, "")), figures.filled(other, ""))


def valid(one: Plain, other: Plain) -> bool:
    """Whether a bundle with these would be read."""
    try:
        manifests.check(one, "")
        figures.check(other, "")
    except BundleError:
        return False
    return True


def reported(target: Path, content: Any) -> Path:
    """A bundle with a report, all hashes right."""
    made(target)
    (target / bundle.REPORT).write_text(json.dumps(content))
    bundle.write_manifest(target, json.loads((target / bundle.MANIFEST).read_text()))
    return target


def test_an_edited_report_is_altered_in_every_command(tmp_path: Path) -> None:
    target = reported(tmp_path / "two", report(good=False))
    assert "❌" in run("report", target).out
    file = target / bundle.REPORT
    file.write_text(file.read_text().replace('"ok": false', '"ok": true'))
    kit = ("conform", target, "-o", tmp_path / "kit", "--backend", "onnxruntime")
    for words in (("report", target), ("verify", target), ("bench", target), kit):
        done = run(*words)
        assert (done.code, done.out) == (3, "")
        assert "report.json was altered" in done.err


def test_a_report_that_leaves_out_what_the_bundle_counts_fails(tmp_path: Path) -> None:
    target = reported(tmp_path / "two", report())
    assert "1 of 1 comparisons are missing, such as y of case 'a'" in run("report", target).out


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda r: [], "names no schema version"),
        (lambda r: {**r, "schema_version": 2}, "is of schema version 2, "),
        (lambda r: {**r, "runs": None}, "runs: expected a list, got null"),
        (lambda r: {**r, "more": 1}, "more: there is no such field"),
        (lambda r: {"schema_version": 3, "runs": [{}]}, r"runs\[0\].backend: is missing"),
        (
            lambda r: {"schema_version": 3, "runs": [{**r["runs"][0], "parity": []}]},
            "parity: expected an object, got a list",
        ),
        (
            lambda r: {"schema_version": 3, "runs": [{**r["runs"][0], "latency": {"threads": 0}}]},
            "latency.cold_start_s: is missing",
        ),
        (lambda r: {"schema_version": 3, "runs": [{**r["runs"][0], "budgets": [{"text": 1}]}]}, "measured: is missing"),
    ],
)
def test_what_is_no_report_is_said_and_where(change: Callable[[Plain], object], words: str, tmp_path: Path) -> None:
    target = reported(tmp_path / "two", change(report()))
    with pytest.raises(BundleError, match=words):
        bundle.report(bundle.read(target))
    for kind in ("html", "markdown", "junit", "sarif", "json"):
        done = run("report", target, "--format", kind)
        assert (done.code, len(done.err.strip().splitlines())) == (3, 1)
    elsewhere = tmp_path / "report.json"
    elsewhere.write_text((target / bundle.REPORT).read_text())
    assert run("bench", target, "--baseline", elsewhere).code == 2


def test_the_schema_and_the_reader_take_the_same_reports() -> None:
    from tests.pipeline.schema import faults

    for good in (True, False):
        assert faults(report(good=good)) == []
        figures.check(report(good=good), "report.json")
