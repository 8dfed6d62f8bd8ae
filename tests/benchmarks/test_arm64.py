"""The page on ARM says what was proven, and what was not."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from benchmarks import arm64
from benchmarks.arm64 import HERE, PAGE, PROCESSORS, ROWS, Row, page, rows, verified


def test_the_page_is_what_the_rows_make() -> None:
    content = json.loads(ROWS.read_text(encoding="utf-8"))
    assert PAGE.read_text(encoding="utf-8") == page([Row(**row) for row in content["rows"]], content["machines"])


def said(name: str, k: float | None, ok: bool = True) -> dict[str, Any]:
    machine = {
        "processor": "P",
        "emulated": "E",
        "python": "3.13",
        "libraries": {"onnxruntime": "1.32.0", "numpy": "2.4.6"},
    }
    parity = {"ok": ok, "comparisons": [{"normalized_error": 0.01}, {"normalized_error": k}]}
    return {"bundle": f"somewhere/{name}", "environment": machine, "runs": [{"parity": parity}]}


def test_it_names_what_failed_and_what_moved_most(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "catalogue").mkdir()
    there = {
        HERE: [said("a", 0.5), said("b", 0.2), said("c", 0.1)],
        PROCESSORS[0]: [said("a", 0.5), said("b", 0.6), said("c", None, ok=False)],
        PROCESSORS[1]: [said("a", 4.5, ok=False), said("b", 0.2), {"bundle": "c", "error": "it died"}],
    }
    there[HERE].append(said("d", 0.2))
    there[PROCESSORS[0]].append(said("d", 0.2))
    for processor, found in there.items():
        (tmp_path / f"catalogue.{processor}.json").write_text(json.dumps(found))
    monkeypatch.setattr(arm64, "verified", lambda *_: pytest.fail("what is kept is not run again"))
    text = page(*rows(tmp_path))
    assert "| cortex-a72 | 3 of 4 | 0.60 | `b` | 3.00 | `b` | 1.000 |" in text
    assert "| max | 1 of 3, 1 not tried | 4.50 | `a` | 9.00 | `a` | 5.000 |" in text
    assert "- `c` on cortex-a72: parity fails" in text
    assert "- `c` on max: it died" in text
    assert "- `a` on max: parity fails" in text
    assert "| `c` | 0.10 |  |  |" in text
    (tmp_path / "runtimes").mkdir()
    for processor in there:
        other = said("a", 0.3)
        other["runs"][0]["backend"] = "toy"
        other["environment"]["libraries"] = {"toy": "1.2"}
        (tmp_path / f"runtimes.{processor}.json").write_text(json.dumps([said("a", 0.2), other]))
    text = page(*rows(tmp_path))
    assert "| `a on toy` | 0.30 | 0.30 | 0.30 |" in text
    assert "- max on toy: E; Python 3.13, toy 1.2" in text
    assert "- max: E; Python 3.13, onnxruntime 1.32.0, numpy 2.4.6" in text
    assert "- max: E; Python 3.13, onnxruntime 1.32.0, numpy 2.4.6" in text


def test_a_death_is_blamed_on_the_bundle_that_it_is_of(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        names = command[4 : command.index("--json")]
        asked.append(len(names))
        assert command[-4:] == ["--emulate", "aarch64", "--cpu", "max"]
        good = {"bundles": [{"bundle": name} for name in names]} if len(names) > 1 else {"bundle": names[0]}
        return subprocess.CompletedProcess(command, 3, json.dumps({"error": "it died"} if "c" in names else good))

    monkeypatch.setattr(arm64.subprocess, "run", run)
    found = verified([Path(name) for name in "abcd"], "max")
    assert [one["bundle"] for one in found] == ["a", "b", "c", "d"]
    assert [one.get("error") for one in found] == [None, None, "it died", None]
    assert asked == [4, 2, 2, 1, 1]
