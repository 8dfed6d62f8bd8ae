"""The report for other programs and places: JUnit XML, SARIF, Markdown. Pure functions of manifest and report."""

from __future__ import annotations

import json
import re
from pathlib import PurePath
from typing import Any
from xml.etree import ElementTree as ET

from attn_export import __version__
from attn_export.tools.report.second import classic
from attn_export.tools.report.view import Check, Plain, checks, headline, number, reproduce, verdict

#: What XML 1.0 cannot hold at all, even escaped.
_UNPRINTABLE = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_RULES = {
    "parity": "The bundle computes what the original module does in float64.",
    "latency": "A comparison of latencies is backed by its control.",
    "budget": "The model keeps to what the user allows it to cost.",
    "check": "The check itself can fail.",
}
_LEVELS = {"failed": "error", "inconclusive": "warning", "not run": "note"}
_SIGNS = {"passed": "✅", "failed": "❌", "inconclusive": "❓", "not run": "➖"}


def junit(manifest: Plain, report: Plain) -> str:
    """JUnit XML: a suite for each group of checks; failed, inconclusive (an error) and not run (skipped) apart."""
    rows = checks(manifest, report)
    top = ET.Element("testsuites", {"name": _clean(_name(manifest)), **_counts(rows)})
    for group in dict.fromkeys(row.group for row in rows):
        mine = [row for row in rows if row.group == group]
        suite = ET.SubElement(top, "testsuite", {"name": _clean(group), **_counts(mine)})
        for row in mine:
            case = ET.SubElement(
                suite, "testcase", classname=_clean(f"{_name(manifest)}.{group}"), name=_clean(row.name)
            )
            text = _clean(f"{row.text}\n{row.place}".strip())
            match row.answer:
                case "failed":
                    ET.SubElement(case, "failure", message=_clean(row.text)).text = text
                case "inconclusive":
                    ET.SubElement(case, "error", message=_clean(row.text), type="inconclusive").text = text
                case "not run":
                    ET.SubElement(case, "skipped", message=_clean(row.text))
                case _:
                    ET.SubElement(case, "system-out").text = text
    ET.indent(top)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ET.tostring(top, encoding="unicode") + "\n"


def sarif(manifest: Plain, report: Plain) -> str:
    """SARIF 2.1.0: whatever did not pass, at the module's line where the graph knows it."""
    results = [_result(manifest, row) for row in checks(manifest, report) if row.answer != "passed"]
    rules = [{"id": name, "shortDescription": {"text": text}} for name, text in _RULES.items()]
    content = {
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [
            {
                "tool": {"driver": {"name": "attn-export", "version": __version__, "rules": rules}},
                "results": results,
            }
        ],
    }
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def markdown(manifest: Plain, report: Plain, name: str = "BUNDLE") -> str:
    """A comment for a pull request: verdict and headline first, what did not pass in full, the rest folded away."""
    rows = checks(manifest, report)
    answer, sentence = verdict(rows)
    lines = [f"### {_SIGNS[answer]} `{_name(manifest)}`: {answer}, {sentence}", ""]
    lines += [f"- {_cell(text)}" for text in headline(manifest, report)]
    if wrong := [row for row in rows if row.answer != "passed"]:
        lines += ["", *_table(wrong)]
    if right := [row for row in rows if row.answer == "passed"]:
        lines += ["", f"<details><summary>{len(right)} checks passed</summary>", "", *_table(right), "", "</details>"]
    for run in report.get("runs", []):
        if rules := classic(run):
            said = ", ".join(f"{row.rule} {row.answer} ({row.passed} of {row.compared})" for row in rules)
            lines += ["", f"Other rules on the same outputs, for comparison: {_cell(said)}."]
    stages = manifest.get("stages", [])
    if stages:
        least = (manifest.get("tolerance") or {}).get("snr")
        lines += ["", "| stage | nodes | bytes | worst k |", "|---|---:|---:|---:|"]
        lines += [f"| {_cell(s['name'])} | {s['nodes']} | {s['bytes']} | {number(s['worst_k'])} |" for s in stages]
        if least is not None and stages[-1].get("worst_snr") is not None:
            lines[-1] = lines[-1].rpartition("| ")[0].rpartition("| ")[0] + f"| {stages[-1]['worst_snr']:.1f} dB |"
    return "\n".join([*lines, "", "```sh", *reproduce(manifest, name), "```", ""])


def _table(rows: list[Check]) -> list[str]:
    head = ["| check | answer | figures |", "|---|---|---|"]
    return head + [
        f"| {_cell(row.name)} ({_cell(row.group)}) | {_SIGNS[row.answer]} {row.answer} | "
        + _cell(row.text)
        + (f" at `{row.place.replace('`', '')}`" if row.place else "")
        + " |"
        for row in rows
    ]


def _result(manifest: Plain, row: Check) -> dict[str, Any]:
    kind = next((name for name in _RULES if row.group.startswith(name)), "check")
    result: dict[str, Any] = {
        "ruleId": kind,
        "level": _LEVELS[row.answer],
        "message": {"text": f"{row.group}, {row.name}: {row.text}"},
        "partialFingerprints": {"check/v1": f"{_name(manifest)}/{row.group}/{row.name}"},
    }
    if row.place:
        result["locations"] = [_location(row.place)]
    return result


def _location(place: str) -> dict[str, Any]:
    file, _, number = place.rpartition(":")
    if not file or not number.isdigit():
        return {"logicalLocations": [{"fullyQualifiedName": place, "kind": "module"}]}
    path = PurePath(file)
    address = path.as_uri() if path.is_absolute() else path.as_posix()
    return {"physicalLocation": {"artifactLocation": {"uri": address}, "region": {"startLine": max(1, int(number))}}}


def _counts(rows: list[Check]) -> dict[str, str]:
    kinds = {"failures": "failed", "errors": "inconclusive", "skipped": "not run"}
    counts = {name: str(sum(row.answer == answer for row in rows)) for name, answer in kinds.items()}
    return {"tests": str(len(rows)), **counts}


def _name(manifest: Plain) -> str:
    return str(manifest.get("subject", {}).get("name", "bundle"))


def _clean(text: str) -> str:
    return _UNPRINTABLE.sub("\ufffd", text)


def _cell(text: str) -> str:
    """Text that cannot break out of a table cell, or into markup."""
    flat = " ".join(text.split())
    return re.sub(r"([\\`*_|\[\]<>])", r"\\\1", flat)
