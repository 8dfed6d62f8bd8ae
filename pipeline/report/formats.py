"""The report for other programs and places: JUnit XML, SARIF, Markdown. Pure functions of manifest and report.

What a manifest or report says is text from outside: it is made printable on the way in, and quoted where it is put.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import PurePath
from typing import Any
from urllib.parse import quote
from xml.etree import ElementTree as ET

from attn_export import __version__
from attn_export.pipeline.report import recount
from attn_export.pipeline.report.audits import other_rules
from attn_export.pipeline.report.content import Check, checks, headline, number, reproduce, verdict
from attn_export.untrusted import text

_RULES = {
    "parity": "The bundle computes what the original module does in float64.",
    "latency": "A comparison of latencies is backed by its control.",
    "budget": "The model keeps to what the user allows it to cost.",
    "check": "The check itself can fail.",
}
_LEVELS = {"failed": "error", "inconclusive": "warning", "not run": "note"}
_SIGNS = {"passed": "✅", "failed": "❌", "inconclusive": "❓", "not run": "➖"}


def junit(manifest: Mapping[str, Any], report: Mapping[str, Any]) -> str:
    """Write JUnit XML: a suite for each group of checks; inconclusive is an error, not run is skipped."""
    rows, name = _printable(checks(manifest, report)), _name(manifest)
    top = ET.Element("testsuites", {"name": name, **_counts(rows)})
    for group in dict.fromkeys(row.group for row in rows):
        mine = [row for row in rows if row.group == group]
        suite = ET.SubElement(top, "testsuite", {"name": group, **_counts(mine)})
        for row in mine:
            case = ET.SubElement(suite, "testcase", classname=f"{name}.{group}", name=row.name)
            said = f"{row.text}\n{row.place}".strip()
            match row.answer:
                case "failed":
                    ET.SubElement(case, "failure", message=row.text).text = said
                case "inconclusive":
                    ET.SubElement(case, "error", message=row.text, type="inconclusive").text = said
                case "not run":
                    ET.SubElement(case, "skipped", message=row.text)
                case _:
                    ET.SubElement(case, "system-out").text = said
    ET.indent(top)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ET.tostring(top, encoding="unicode") + "\n"


def sarif(manifest: Mapping[str, Any], report: Mapping[str, Any]) -> str:
    """Write SARIF 2.1.0: whatever did not pass, at the module's line where the graph knows it."""
    rows = _printable(checks(manifest, report))
    results = [_result(manifest, row) for row in rows if row.answer != "passed"]
    rules = [{"id": name, "shortDescription": {"text": meaning}} for name, meaning in _RULES.items()]
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
    return json.dumps(content, indent=1) + "\n"


def markdown(manifest: Mapping[str, Any], report: Mapping[str, Any], name: str = "BUNDLE") -> str:
    """Write a comment for a pull request: verdict first, what did not pass in full, the rest folded away."""
    rows = checks(manifest, report)
    answer, sentence = verdict(rows)
    lines = [f"### {_SIGNS[answer]} {text.code(_name(manifest))}: {answer}, {sentence}", ""]
    lines += [f"- {text.markdown(said)}" for said in headline(manifest, report)]
    if wrong := [row for row in rows if row.answer != "passed"]:
        lines += ["", *_table(wrong)]
    if right := [row for row in rows if row.answer == "passed"]:
        lines += ["", f"<details><summary>{len(right)} checks passed</summary>", "", *_table(right), "", "</details>"]
    for run in report.get("runs", []):
        if rules := other_rules(run):
            said = ", ".join(f"{row.rule} {row.answer} ({row.passed} of {row.compared})" for row in rules)
            lines += ["", f"Other rules on the same outputs, for comparison: {text.markdown(said)}."]
    stages = manifest.get("stages", [])
    if stages:
        least = recount.tolerance(manifest).get("snr_db_limit")
        lines += ["", "| stage | nodes | bytes | worst error |", "|---|---:|---:|---:|"]
        errors = [
            f"{stage['snr_db']:.1f} dB"
            if stage["normalized_error"] is None and stage.get("snr_db") is not None
            else f"{number(stage['normalized_error'])}x"
            for stage in stages
        ]
        if least is not None and stages[-1].get("snr_db") is not None:
            errors[-1] = f"{stages[-1]['snr_db']:.1f} dB"
        for stage, error in zip(stages, errors, strict=True):
            cells = (text.cell(str(stage[key])) for key in ("name", "nodes", "bytes"))
            lines.append(f"| {' | '.join(cells)} | {error} |")
    return "\n".join([*lines, "", "```sh", *reproduce(manifest, name), "```", ""])


def _table(rows: list[Check]) -> list[str]:
    head = ["| check | answer | figures |", "|---|---|---|"]
    return head + [
        f"| {text.cell(row.name)} ({text.cell(row.group)}) | {_SIGNS[row.answer]} {row.answer} |"
        f" {text.cell(row.text)}{f' at {text.cell_code(row.place)}' if row.place else ''} |"
        for row in rows
    ]


def _result(manifest: Mapping[str, Any], row: Check) -> dict[str, Any]:
    kind = next((name for name in _RULES if row.group.startswith(name)), "check")
    result: dict[str, Any] = {
        "ruleId": kind,
        "level": _LEVELS[row.answer],
        "message": {"text": _unlinked(f"{row.group}, {row.name}: {row.text}")},
        "partialFingerprints": {"check/v1": f"{_name(manifest)}/{row.group}/{row.name}"},
    }
    if row.place:
        result["locations"] = [_location(row.place)]
    return result


def _unlinked(message: str) -> str:
    """Break what would be a link in SARIF, in which ``[words](address)`` would be a link."""
    return message.replace("](", "] (")


def _location(place: str) -> dict[str, Any]:
    """Where a failure points: a line of a file, as a URI with its odd characters in percent, or a module."""
    file, _, line = place.rpartition(":")
    if not file or not _is_line(line):
        return {"logicalLocations": [{"fullyQualifiedName": place, "kind": "module"}]}
    path = PurePath(file)
    # A relative one is quoted whole, colons too: its first part must not read as a scheme, such as javascript.
    address = path.as_uri() if path.is_absolute() else quote(path.as_posix())
    return {"physicalLocation": {"artifactLocation": {"uri": address}, "region": {"startLine": max(1, int(line))}}}


def _is_line(number: str) -> bool:
    """Whether it is a number that a viewer of SARIF takes for a line: a 32 bit integer."""
    return number.isascii() and number.isdigit() and len(number) < 10


def _counts(rows: list[Check]) -> dict[str, str]:
    kinds = {"failures": "failed", "errors": "inconclusive", "skipped": "not run"}
    counts = {name: str(sum(row.answer == answer for row in rows)) for name, answer in kinds.items()}
    return {"tests": str(len(rows)), **counts}


def _name(manifest: Mapping[str, Any]) -> str:
    return text.line(str(manifest.get("subject", {}).get("name", "bundle")))


def _printable(rows: list[Check]) -> list[Check]:
    return [replace(row, **text.everywhere(vars(row))) for row in rows]
