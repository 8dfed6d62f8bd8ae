"""The page of targets: what the rows render to, and what a try that fails, hangs or dies becomes."""

from __future__ import annotations

import json
import os
import re
import time
from dataclasses import replace
from pathlib import Path

import pytest

from attn_export.errors import BackendError, BackendMissingError, ExportError, GateError, InconclusiveError
from attn_export.export import converters
from attn_export.export.converters import Converted, Source
from attn_export.mechanisms import MECHANISMS
from benchmarks.targets import faults, rankings
from benchmarks.targets import row as rows
from benchmarks.targets.__main__ import PAGE, ROWS, known, rendered, run, wanted
from benchmarks.targets.attempt import Attempt, refused
from benchmarks.targets.page import page
from benchmarks.targets.prepared import prepared
from benchmarks.targets.row import Row
from benchmarks.targets.worker import Worker

RIGHT = Row(
    "toy", "se", fused=False, converted=True, ran=True, k=0.5, left_out=1, faults_caught=(3, 3), latency_ratio=0.8,
    ratio_low=0.79, ratio_high=0.81, load=1.5, evidence="E2", versions={"converter": "toy 1"}, machine="a board",
    date="2026-01-02",
)  # fmt: skip
WRONG = replace(RIGHT, entry="eca", k=900.0, reason="parity fails | on <toy>", faults_caught=None, latency_ratio=None)
REFUSED = Row("toy", "sk", fused=True, converted=False, reason="no Pad", date="2026-01-03")
COMPILED = Row("chip", "se", converted=True, share_on_accelerator=0.95, evidence="E1")


def test_the_page_is_what_the_rows_render_to() -> None:
    assert PAGE.read_text(encoding="utf-8") == rendered(), "run: python -m benchmarks.targets page"


def test_every_row_is_of_an_entry_and_lies_in_its_targets_file() -> None:
    for file in ROWS.glob("*.jsonl"):
        for row in rows.read(file).values():
            assert row.entry in MECHANISMS
            assert rows.file_of(ROWS, row.target) == file
    assert all(row.reason for row in known() if row.converted is False or row.ran is False)


def test_the_page_keeps_apart_what_converted_what_ran_and_what_is_right() -> None:
    text = page([REFUSED, WRONG, RIGHT, COMPILED], ["se", "eca", "sk", "other"])
    assert "| `toy` | 3 | 2 |  | 2 | 1 | k 0.50 (`se`) | 3 of 3 | 0.80 (1) | E2 | a board | toy 1 |" in text
    assert "2026-01-02 to 2026-01-03 |" in text
    assert "| `chip` | 1 | 1 | 95% |  |  |  |  |  | E1 |" in text, "what was not measured is empty, and not 0"
    assert (
        "| `se` | no | yes |  | yes (1 cases left out) | k 0.50 | 3 of 3 | 0.80 [0.79, 0.81], load 1.5 | E2 |" in text
    )
    assert "| `eca` | no | yes |  | yes (1 cases left out) | **wrong** k 900.00 |" in text
    assert "- `eca` (wrong): parity fails \\| on &lt;toy>" in text
    assert "- `sk` (not converted): no Pad" in text
    assert "Not tried: 1 entries." in text


def test_rows_survive_the_file_and_the_later_try_holds(tmp_path: Path) -> None:
    file = rows.file_of(tmp_path, "toy:fp16")
    assert file.name == "toy-fp16.jsonl"
    for row in (RIGHT, REFUSED, replace(REFUSED, converted=True, reason="")):
        rows.append(file, row)
    rows.write(file, rows.read(file).values())
    assert list(rows.read(file).values()) == [RIGHT, replace(REFUSED, converted=True, reason="")]
    with pytest.raises(ValueError, match="expected the fields of a row, got speed"):
        rows.row_of('{"target": "toy", "entry": "se", "speed": 1}')


def test_what_was_measured_is_kept_for_as_long_as_the_versions_are_the_same() -> None:
    again = replace(RIGHT, faults_caught=None, latency_ratio=None, ratio_low=None, ratio_high=None, load=None)
    assert again.onto(RIGHT) == RIGHT
    assert again.onto(None) == again
    newer = replace(again, versions={"converter": "toy 2"})
    assert newer.onto(RIGHT) == newer
    assert WRONG.onto(RIGHT) == WRONG, "what was measured of a right file says nothing of a wrong one"


def test_an_older_answer_stands_where_a_later_try_was_stopped_at_its_limit() -> None:
    late = Worker(_breaks, 1.0)
    try:
        row = late.row("toy", "hangs", "test")
    finally:
        late.end()
    assert row.stopped
    assert row.onto(None) == row
    assert row.onto(RIGHT) == RIGHT
    assert row.onto(REFUSED) == REFUSED, "that is an answer, too"
    assert row.onto(replace(RIGHT, preset="small")) == row
    assert replace(row, seconds=9.0).onto(row).seconds == 9.0, "of two that were stopped the later holds"
    died = replace(row, reason="the process of the converter or the runtime ended: it died by SIGABRT")
    assert died.onto(RIGHT) == died, "a crash is one"


def test_what_is_known_is_not_run_again_unless_it_is_named() -> None:
    assert "se" not in wanted([], {"se": RIGHT})
    assert wanted(["se"], {"se": RIGHT}) == ["se"]


@pytest.mark.parametrize(
    ("error", "converted", "ran"),
    [
        (ExportError("no Pad"), False, None),
        (BackendError("no kernel"), True, False),
        (InconclusiveError("takes none of the cases"), True, None),
        (GateError("wrong before", stage="fuse"), None, None),
    ],
)
def test_the_error_tells_how_far_it_came(error: Exception, converted: bool | None, ran: bool | None) -> None:
    found = refused(Row("toy", "se"), error)  # type: ignore[arg-type]
    assert (found.converted, found.ran, found.reason) == (converted, ran, str(error))


class Zeros:
    """A converter that loses the weights and says nothing."""

    def missing(self) -> None:
        return None

    def convert(self, source: Source) -> Converted:
        from onnx import numpy_helper

        from attn_export.export.converters.ort import Ort

        for weight in source.exported.model.graph.initializer:
            array = numpy_helper.to_array(weight)
            if array.dtype == "float32":
                weight.CopyFrom(numpy_helper.from_array(array * 0, weight.name))
        return Ort().convert(source)


def test_a_row_of_the_real_job_is_right_and_one_of_a_silent_converter_is_wrong(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    good = Attempt(tmp_path)("ort", "se", "test")
    assert (good.converted, good.ran, good.right, good.evidence, good.reason) == (True, True, True, "E2", "")
    assert good.k is not None
    assert good.k < 4
    assert good.versions["converter"].startswith("ONNX Runtime")
    monkeypatch.setattr("attn_export.export.converters.ort.CONVERTER", Zeros())
    bad = Attempt(tmp_path)("ort", "se", "test")
    assert [place.name for place in tmp_path.iterdir()] == ["se-test-fused"], "the entry's bundle serves both"
    assert (bad.converted, bad.ran, bad.right) == (True, True, False)
    assert bad.k is not None
    assert bad.k > 4
    assert "parity fails" in bad.reason


@pytest.mark.slow
def test_planted_faults_are_caught_and_a_fault_that_is_none_does_not_count(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    attempt = Attempt(tmp_path, faults=True)
    assert attempt("ort", "repvgg", "test").faults_caught == (3, 3)
    none = iter(())
    monkeypatch.setattr(faults, "KINDS", (lambda module: iter([module]), lambda module: none))
    assert attempt("ort", "se", "test").faults_caught is None, "nothing wrong was planted"
    prepared.cache_clear()
    monkeypatch.setattr(faults, "KINDS", (faults.weights_zeroed,))
    monkeypatch.setattr(faults, "_holds", lambda *_: True)
    assert attempt("ort", "se", "test").faults_caught == (0, 1), "one that passes is counted"


def test_entries_are_tried_on_one_target_after_the_other_and_each_has_its_own_file(tmp_path: Path) -> None:
    file = rows.file_of(tmp_path, "ort")
    rows.append(file, replace(RIGHT, target="ort", entry="se"))
    run(["ort", "ort:fp16"], [], "test", 20.0, _tried, tmp_path)
    whole, half = rows.read(file), rows.read(rows.file_of(tmp_path, "ort:fp16"))
    assert list(half) == sorted(MECHANISMS)
    assert list(whole) == sorted(MECHANISMS)
    assert whole["se"] == replace(RIGHT, target="ort", entry="se"), "what is known is not run again"
    order = sorted((row.seconds or 0.0, row.target) for row in (*whole.values(), *half.values()) if row.entry != "se")
    assert [target for _, target in order[:4]] == ["ort", "ort:fp16"] * 2, "an entry goes to all before the next"


def test_a_ranking_is_kept_as_it_was_printed(tmp_path: Path) -> None:
    ratio = {"estimate": 0.8, "low": 0.79, "high": 0.81}
    compared = {"ratio": ratio, "control": {**ratio, "estimate": 1.0}, "clock": "CPU time", "verdict": "faster"}
    row = {"artifact": "model", "precision": "float32", "version": "R 1", "fault": "", "comparison": None}
    right = {"normalized_error": 0.5, "snr_db": None}
    void = {**compared, "verdict": "void"}
    printed = {
        "bundle": "/x/net",
        "environment": {"processor": "P", "cores": 2, "load": 1.5},
        "case": "b=1",
        "baseline": {**row, "parity": right},
        "ranking": [
            {**row, "artifact": "fast", "parity": {"normalized_error": None, "snr_db": 46.0}, "comparison": compared},
            {**row, "artifact": "odd", "parity": right, "comparison": void},
            {**row, "artifact": "bad", "parity": right, "fault": "wrong | k 9"},
        ],
    }
    file = tmp_path / "rankings.jsonl"
    for date in ("2026-01-01", "2026-01-02"):
        rankings.append(file, rankings.kept(json.dumps(printed), date))
    loaded = {**printed, "environment": {"processor": "P", "cores": 2, "load": 2.5}}
    rankings.append(file, rankings.kept(json.dumps(loaded), "2026-01-01"))
    text = rankings.section(rankings.read(file))
    assert text.count("baseline") == 2, "of two of one condition the later holds"
    assert text.index("| `net`, quiet |") < text.index("| `net`, loaded |")
    assert "|  | fast (float32) | R 1 | 0.80 [0.79, 0.81] | 1.00 [0.79, 0.81] | CPU time | 46.0 dB | faster |" in text
    assert "|  | odd (float32) | R 1 |  | 1.00" in text, "no ratio where the control does not hold"
    assert "| k 0.50 | not timed: wrong \\| k 9 |" in text
    assert "- `net`, quiet: 2026-01-02, P, 2 cores, load 1.5; case 'b=1'" in text
    assert rankings.section([]) == ""


def _breaks(target: str, entry: str, preset: str) -> Row:
    if entry == "hangs":
        time.sleep(60)
    if entry == "dies":
        os.abort()
    if entry == "missing":
        raise BackendMissingError("nothing runs it")
    return Row(target, entry, preset, seconds=os.getpid())


def _tried(target: str, entry: str, preset: str) -> Row:
    return Row(target, entry, preset, seconds=time.perf_counter())


def test_what_hangs_or_dies_is_a_row_and_the_next_entry_is_tried() -> None:
    worker = Worker(_breaks, 20.0)
    try:
        first = worker.row("toy", "a", "test")
        assert worker.row("toy", "b", "test").seconds == first.seconds, "one process for all"
        assert worker.row("toy", "dies", "test").reason.endswith("it died by SIGABRT")
        worker.limit = 1.0
        why = worker.row("toy", "hangs", "test").reason
        assert re.fullmatch(r"stopped after 1 s at a load of \d+ on \d+ cores", why)
        worker.limit = 20.0
        assert worker.row("toy", "c", "test").seconds not in {None, first.seconds}
        with pytest.raises(BackendMissingError):
            worker.row("toy", "missing", "test")
    finally:
        worker.end()


def test_a_converter_that_is_missing_is_said_before_anything_is_tried(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    class Missing(Zeros):
        def missing(self) -> str:  # type: ignore[override]
            return "toy is not installed"

    monkeypatch.setattr(type(converters.CONVERTERS), "__getitem__", lambda self, name: Missing())
    with pytest.raises(SystemExit, match="toy is not installed"):
        run(["ort"], [], "test", 1.0, Attempt(tmp_path), tmp_path)
    assert not list(tmp_path.iterdir())
