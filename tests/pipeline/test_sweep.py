"""The sweep: one failing entry never stops the others, and what has not changed is not run again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from attn_export import bundle
from attn_export.errors import WriteError
from attn_export.pipeline.sweep import jobs as sweep
from attn_export.pipeline.sweep.jobs import RESULTS, Settings, SweepJob, SweepRow, jobs
from tests.tools.run import run

pytestmark = pytest.mark.slow

GOOD, BAD = SweepJob("se", "test", fuse=False), SweepJob("se", "no_such_preset", fuse=False)


def test_a_failing_entry_stops_no_other_and_a_second_sweep_keeps_what_passed(tmp_path: Path) -> None:
    settings = Settings(folder=tmp_path, workers=1)
    seen: list[SweepRow] = []
    rows = sweep.sweep([BAD, GOOD], settings, lambda row, *_: seen.append(row))
    assert [row.status for row in rows] == ["UnknownNameError", "passed"]
    assert {row.label for row in seen} == {BAD.label, GOOD.label}
    assert rows[1].result is not None
    assert rows[1].result["parity"] is True
    assert bundle.read(tmp_path / GOOD.label).name == "se:test"
    assert "export" in (tmp_path / f"{GOOD.label}.log").read_text()
    assert len(json.loads((tmp_path / RESULTS).read_text())["rows"]) == 2

    again = sweep.sweep([BAD, GOOD], settings)
    assert [row.cached for row in again] == [False, True]
    kept = json.loads((tmp_path / RESULTS).read_text())
    (tmp_path / RESULTS).write_text(json.dumps({**kept, "rows": [{**row, "seconds": "1"} for row in kept["rows"]]}))
    assert not sweep.sweep([GOOD], settings)[0].cached, "what another version wrote is run again"


@pytest.mark.parametrize("content", ["half", "[1]", '{"my": "own"}', '{"rows": [], "environment": {}, "more": 1}'])
@pytest.mark.parametrize("again", [False, True])
def test_a_file_of_that_name_that_is_no_sweep_is_not_overwritten(tmp_path: Path, content: str, again: bool) -> None:
    (tmp_path / RESULTS).write_text(content)
    with pytest.raises(WriteError):
        sweep.sweep([GOOD], Settings(folder=tmp_path, workers=1, cache=not again))
    assert (tmp_path / RESULTS).read_text() == content
    assert [path.name for path in tmp_path.iterdir()] == [RESULTS], "nothing was begun"


def test_a_job_that_takes_too_long_is_stopped_and_the_rest_goes_on(tmp_path: Path) -> None:
    rows = sweep.sweep([GOOD, GOOD], Settings(folder=tmp_path, workers=1, job_timeout=0.01))
    assert [row.status for row in rows] == ["too slow", "too slow"]


def test_a_worker_that_dies_is_a_failure_of_its_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    start = sweep.children.start
    code = "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)"
    (tmp_path / "dying.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(sweep.children, "start", lambda _, *rest, **options: start("dying", *rest, **options))
    rows = sweep.sweep([GOOD, BAD], Settings(folder=tmp_path, workers=1))
    assert [(row.status, row.message) for row in rows] == [("died", "it died by SIGSEGV")] * 2


def test_a_change_of_the_code_is_a_change_of_the_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(folder=tmp_path)
    before = sweep._key(GOOD, sweep._shared_key(settings))
    assert sweep._key(GOOD, sweep._shared_key(settings)) == before
    assert sweep._key(SweepJob("se", "test", fuse=True), sweep._shared_key(settings)) != before
    monkeypatch.setattr(sweep, "__version__", "99")
    assert sweep._key(GOOD, sweep._shared_key(settings)) != before


def test_every_entry_has_its_jobs() -> None:
    every = jobs([], ["test"], fuse=None, variants=True)
    assert {job.name for job in every} == set(sweep.MECHANISMS)
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
