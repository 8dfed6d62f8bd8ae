"""The sweep: one failing entry never stops the others, and what has not changed is not run again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from attn_export import bundle
from attn_export.errors import WriteError
from attn_export.mechanisms import MECHANISMS
from attn_export.pipeline.sweep import keys, sweeping, versions
from attn_export.pipeline.sweep.catalogue import jobs
from attn_export.pipeline.sweep.job import BenchSettings, MeasureJob, Plan, SweepJob
from attn_export.pipeline.sweep.keys import BuildKeys
from attn_export.pipeline.sweep.rows import RESULTS, SweepRow
from attn_export.pipeline.sweep.sweeping import Settings
from tests.tools.run import run

pytestmark = pytest.mark.slow

GOOD, BAD = SweepJob("se", "test", fuse=False), SweepJob("se", "no_such_preset", fuse=False)
QUICK = BenchSettings(warmup=0, iterations=1, duration=0)


def test_a_failing_entry_stops_no_other_and_a_second_sweep_keeps_what_passed(tmp_path: Path) -> None:
    settings = Settings(folder=tmp_path, workers=1)
    measured = MeasureJob(GOOD.label, "onnxruntime", bench=QUICK)
    plan = Plan((BAD, GOOD), (measured, MeasureJob(BAD.label, "onnxruntime", bench=QUICK)))
    seen: list[SweepRow] = []
    rows = sweeping.sweep(plan, settings, lambda row, *_: seen.append(row))
    assert [row.status for row in rows] == ["UnknownNameError", "passed", "passed", "no bundle"]
    assert {row.label for row in seen} == {job.label for job in plan.jobs}
    assert rows[1].result is not None
    assert rows[1].result["parity"] is True
    assert bundle.read(tmp_path / GOOD.label).name == "se:test"
    assert "export" in (tmp_path / f"{GOOD.label}.log").read_text()
    assert len(json.loads((tmp_path / RESULTS).read_text())["rows"]) == 4
    assert rows[2].result is not None
    assert rows[2].result["digest"] == bundle.digest(tmp_path / GOOD.label)
    assert rows[2].result["wall_ms"]["p50"] > 0
    assert json.loads((tmp_path / measured.label / "bench.json").read_text())["runs"]

    again = sweeping.sweep(plan, settings)
    assert [row.cached for row in again] == [False, True, True, False]
    kept = json.loads((tmp_path / RESULTS).read_text())
    (tmp_path / RESULTS).write_text(json.dumps({**kept, "rows": [{**row, "seconds": "1"} for row in kept["rows"]]}))
    assert not sweeping.sweep(Plan((GOOD,)), settings)[0].cached, "what another version wrote is run again"


@pytest.mark.parametrize("content", ["half", "[1]", '{"my": "own"}', '{"rows": [], "environment": {}, "more": 1}'])
@pytest.mark.parametrize("again", [False, True])
def test_a_file_of_that_name_that_is_no_sweep_is_not_overwritten(tmp_path: Path, content: str, again: bool) -> None:
    (tmp_path / RESULTS).write_text(content)
    with pytest.raises(WriteError):
        sweeping.sweep(Plan((GOOD,)), Settings(folder=tmp_path, workers=1, cache=not again))
    assert (tmp_path / RESULTS).read_text() == content
    assert [path.name for path in tmp_path.iterdir()] == [RESULTS], "nothing was begun"


def test_a_job_that_takes_too_long_is_stopped_and_the_rest_goes_on(tmp_path: Path) -> None:
    rows = sweeping.sweep(Plan((GOOD, BAD)), Settings(folder=tmp_path, workers=1, job_timeout=0.01))
    assert [row.status for row in rows] == ["too slow", "too slow"]


def test_a_worker_that_dies_is_a_failure_of_its_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)"
    (tmp_path / "dying.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    rows = sweeping.sweep(Plan((GOOD, BAD)), Settings(folder=tmp_path, workers=1, module="dying"))
    assert [(row.status, row.message) for row in rows] == [("died", "it died by SIGSEGV")] * 2


def test_a_change_of_the_code_is_a_change_of_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    def key(job: SweepJob, mutants: str = "fast", **changed: str) -> str:
        return BuildKeys({**versions.here(), **changed}, bench=False, mutants=mutants).of(job)

    before = key(GOOD)
    assert key(GOOD) == before
    assert key(GOOD, **{versions.OWN: "a file of another entry"}) == before
    assert key(SweepJob("se", "test", fuse=True)) != before
    assert key(SweepJob("se", "test", fuse=False, precision="float16")) != before
    assert key(GOOD, "none") != before
    assert key(GOOD, torch="1.0") != before
    monkeypatch.setattr(keys, "__version__", "99")
    assert key(GOOD) != before


def test_every_entry_has_its_jobs() -> None:
    every = jobs([], ["test"], fuse=None, variants=True)
    assert {job.name for job in every} == set(MECHANISMS)
    assert len({job.label for job in every}) == len(every)
    assert {job.fuse for job in every} == {True, False}
    assert {job.name for job in jobs(["rep"], ["test"], fuse=True, variants=False)} < {job.name for job in every}


def test_on_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("attn_export.tools.commands.sweep.jobs", lambda *_, **__: [BAD, GOOD])
    done = run("sweep", "-o", tmp_path, "--workers", "1")
    assert done.code == 1
    assert "1 of 2 runs of 1 entries passed, none skipped" in done.out
    assert "no preset of se" in done.out.replace("there is ", "")
    assert run("sweep", "--family", "rpe").code == 2
