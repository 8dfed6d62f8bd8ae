"""``--store`` and ``history`` on the command line: every command's run is there, once, and can be asked."""

from __future__ import annotations

from pathlib import Path

import pytest

from attn_export.deploy_tests.latency.comparison import Rules
from attn_export.deploy_tests.store import folder, index
from attn_export.deploy_tests.store.record import Machine
from attn_export.pipeline.sweep.job import MeasureJob, Plan, SweepJob
from attn_export.pipeline.sweep.rows import SweepRow
from attn_export.tools.commands import sweep
from attn_export.tools.commands.bench import BenchOptions
from tests.deploy_tests.test_conformance import write
from tests.deploy_tests.test_store import HERE
from tests.deploy_tests.test_store import run as stored_run
from tests.tools.run import run

QUICK = ("--duration", "0", "--iterations", "20", "--warmup", "0")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kept")
    write(folder / "bundle")
    return folder


@pytest.fixture(autouse=True)
def two_short_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(BenchOptions, "rules", property(lambda _: Rules(2, 2, 0.002)))


def figures(store: Path) -> list[tuple[str, str, str]]:
    with index.opened(store) as found:
        assert found.skipped() == {}
        return [(point.kind, point.figure.metric, point.figure.how) for point in found.points()]


def test_every_command_of_the_device_keeps_its_run(place: Path, tmp_path: Path) -> None:
    bundle, store = place / "bundle", tmp_path / "store"
    assert run("verify", bundle, "--store", store).code == 0
    assert figures(store) == [("verify", "error", "normalized")]
    done = run("bench", bundle, "--store", store, "--json", *QUICK)
    assert done.code == 0, done.err
    assert done.json["runs"][0]["repeated"]["control"]
    assert figures(store)[1:] == [("bench", "time", "fresh processes")]
    assert run("bench", bundle, bundle, "--store", store, *QUICK).code in (0, 5)
    kinds = figures(store)[2:]
    assert sorted(how.partition(" ")[0] for _, _, how in kinds) == ["one", "over"], "of the first of two alike"
    with index.opened(store) as found:
        assert len({point.subject.inputs for point in found.points()}) == 1
        assert len(found.known()) == 1


def test_a_parity_that_fails_is_kept_as_such(place: Path, tmp_path: Path) -> None:
    assert run("verify", place / "bundle", "--tolerance", "1e-9", "--store", tmp_path / "store").code == 1
    with index.opened(tmp_path / "store") as found:
        (point,) = found.points()
    assert not point.figure.ok


def test_the_variable_names_a_store_too_and_nothing_else_does(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ATTN_EXPORT_STORE", str(tmp_path / "store"))
    assert run("verify", place / "bundle").code == 0
    assert len(figures(tmp_path / "store")) == 1
    monkeypatch.setenv("ATTN_EXPORT_STORE", "relative")
    done = run("verify", place / "bundle")
    assert (done.code, "absolute path" in done.err) == (2, True)
    monkeypatch.delenv("ATTN_EXPORT_STORE")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pyproject.toml").write_text('[tool.attn-export.bench]\nstore = "elsewhere"\n')
    assert "there is no option in" in run("bench", place / "bundle").err


def test_where_nothing_can_be_kept_nothing_is_measured(place: Path, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("mine")
    for words in (("bench", place / "bundle", *QUICK), ("verify", place / "bundle"), ("sweep", "-o", tmp_path / "out")):
        done = run(*words, "--store", tmp_path / "full")
        assert done.code == 3, done.err
        assert "thesis.tex" in done.err
        assert done.out == ""


def test_a_result_of_the_cache_is_the_run_that_made_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATTN_EXPORT_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    job = ("se", "--preset", "test", "--mutants", "none", "--no-bench", "-q")
    assert run(*job, "-o", "a", "--store", "store").code == 0
    for output in ("a", "b"):
        done = run(*job, "-o", output, "--store", "store")
        assert "from the cache" in done.out, done.err
    assert figures(tmp_path / "store") == [("export", "error", "normalized")], "one measurement, whatever it is called"


def test_jobs_of_a_sweep_are_kept_with_the_machine_that_ran_them(place: Path, tmp_path: Path) -> None:
    bundle, store = place / "bundle", folder.ready(tmp_path / "store")
    jobs = [MeasureJob("net", "onnxruntime"), MeasureJob("net", "onnxruntime", "pi", "ssh://pi")]
    for job in jobs:
        (tmp_path / job.label).mkdir()
        for command, words in (("verify", ()), ("bench", QUICK)):
            done = run(command, bundle, "--json", *words)
            (tmp_path / job.label / f"{command}.json").write_text(done.out)
    plan = Plan(builds=(SweepJob("se", "test", fuse=False),), measures=tuple(jobs), given={"net": bundle})
    for job in jobs:
        sweep._keep(store, SweepRow(job.label, "passed", "", 1.0, "key"), plan, tmp_path)
    sweep._keep(store, SweepRow(jobs[0].label, "passed", "", 1.0, "key", cached=True), plan, tmp_path)
    sweep._keep(store, SweepRow("se-test", "died", "", 1.0, "key"), plan, tmp_path)
    assert [one[1] for one in figures(store)] == ["error", "time"] * 2
    with index.opened(store) as found:
        names = [point.machine.name for point in found.points()]
    assert names[2:] == ["pi", "pi"]
    assert "pi" not in names[:2]
    assert len(list(store.rglob("*.json"))) == 5, "a job that died is a run without figures"


SAME, SLOWER = [1.0, 1.001, 0.999, 1.002, 1.0, 1.001], [1.0, 1.001, 0.999, 1.002, 1.2, 1.201, 1.199, 1.2]


def kept(store: Path, values: list[float], *, machine: Machine = HERE) -> None:
    for when, value in enumerate(values):
        folder.put(store, stored_run(value, 86_400.0 * when, machine=machine))


@pytest.mark.parametrize(
    ("values", "code", "says"), [(SAME, 0, "passed"), (SLOWER, 1, "slower since"), ([1.0], 5, "1 of at least 3")]
)
def test_history_ends_with_the_verdict_on_the_last_run(
    tmp_path: Path, values: list[float], code: int, says: str
) -> None:
    kept(tmp_path, values)
    done = run("history", "net", "--store", tmp_path)
    assert (done.code, says in done.out + done.err) == (code, True), done.out + done.err
    found = run("history", "net", "--store", tmp_path, "--json")
    assert found.code == code
    (series,) = found.json["series"]
    assert [point["estimate"] for point in series["points"]] == values
    assert len(series["changes"]) == (code == 1)


def test_a_change_is_accepted_by_its_run_or_its_day(tmp_path: Path) -> None:
    kept(tmp_path, SLOWER)
    done = run("history", "net", "--store", tmp_path, "--json")
    change = done.json["series"][0]["changes"][0]
    assert change["recorded"].startswith("1970-01-05")
    assert change["low"] < 1.2 < change["high"]
    for since in ("1970-01-05", Path(change["run"]).name[:12]):
        assert run("history", "net", "--store", tmp_path, "--since", since).code == 0
    assert run("history", "net", "--store", tmp_path, "--since", "zz").code == 2
    assert run("history", "net", "--store", tmp_path, "--max-regression", "50%").code == 0


def test_machines_are_apart_and_one_can_be_asked_alone(tmp_path: Path) -> None:
    kept(tmp_path, SAME)
    kept(tmp_path, [9 * value for value in SLOWER], machine=Machine("fedcba9876543210", "pi", "arm", 4))
    done = run("history", "net", "--store", tmp_path, "--json")
    assert (done.code, [one["verdict"] for one in done.json["series"]]) == (1, ["passed", "failed"])
    assert run("history", "net", "--store", tmp_path, "--machine", "here").code == 0
    assert run("history", "net", "--store", tmp_path, "--machine", "pi").code == 1
    assert "no machine in these runs" in run("history", "net", "--store", tmp_path, "--machine", "pj").err


def test_a_bundle_is_asked_for_by_its_folder_or_digest(place: Path, tmp_path: Path) -> None:
    assert run("verify", place / "bundle", "--store", tmp_path).code == 0
    by_folder = run("history", place / "bundle", "--store", tmp_path, "--json")
    assert by_folder.code == 0, by_folder.err
    digest = by_folder.json["series"][0]["points"][0]["digest"]
    assert run("history", digest, "--store", tmp_path).code == 0
    listed = run("history", "--store", tmp_path, "--json")
    assert [one["runs"] for one in listed.json["subjects"]] == [1]
    assert "did you mean" in run("history", listed.json["subjects"][0]["name"] + "x", "--store", tmp_path).err


def test_what_lies_in_the_store_is_named_and_acts_on_nobody(tmp_path: Path) -> None:
    kept(tmp_path, SAME)
    kept_by_others = next((tmp_path / "runs").iterdir())
    (kept_by_others / "\x1b[31mred.json").write_text("{}")
    done = run("history", "net", "--store", tmp_path, "--rebuild")
    assert done.code == 0
    assert "is not called as a run is" in done.err
    assert "\x1b" not in done.err + done.out
    for words, says in ((("net",), "which store?"), (("net", "--store", tmp_path / "none"), "is not a store")):
        assert says in run("history", *words).err
    assert run("history", "net", "--store", tmp_path, "--metric", "tim").code == 2
