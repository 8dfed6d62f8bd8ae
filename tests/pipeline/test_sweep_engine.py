"""What every engine is held to: nothing is begun that would wait for ever, and every job ends in one row."""

from __future__ import annotations

import json
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from attn_export.errors import AttnExportError, BackendMissingError, UsageError
from attn_export.pipeline.sweep import engine, keys, locks, order, sweeping, versions
from attn_export.pipeline.sweep.child import Child
from attn_export.pipeline.sweep.engine import Done, Machine
from attn_export.pipeline.sweep.job import BenchSettings, MeasureJob, Plan, SweepJob
from attn_export.pipeline.sweep.order import Order
from attn_export.pipeline.sweep.rows import RESULTS, SweepRow, Table, exit_code
from attn_export.pipeline.sweep.sweeping import Settings
from attn_export.pipeline.sweep.work import command_line, work

BUILDS = tuple(SweepJob("se", "test", fuse=fuse) for fuse in (False, True))
MEASURE = MeasureJob("se-test", "onnxruntime")


class Fake:
    """An engine on which every order ends as is said."""

    def __init__(self, status: str = "passed", **machine: Any) -> None:
        self.status, self.orders, self.closed = status, list[Order](), False
        self.offers = machine.pop("offers", {"cpu": 2, "device:local": 1})
        self.machine = {"versions": versions.here(), "identity": "this one", **machine}

    def machines(self) -> list[Machine]:
        return [Machine("fake", self.offers, **self.machine)]

    def submit(self, order: Order) -> None:
        self.orders.append(order)

    def as_completed(self) -> Iterator[Done]:
        for one in self.orders:  # grows meanwhile
            yield Done(one, one.row(self.status, "done"))

    def close(self) -> None:
        self.closed = True


def test_nothing_is_begun_that_nobody_can_do(tmp_path: Path) -> None:
    jobs = (MeasureJob("se-test", "onnxruntime", "jetson"), MeasureJob("se-test", "onnxruntime", "rack", "ssh://rack"))
    fake = Fake()
    with pytest.raises(BackendMissingError, match=r"device:jetson \(1 job\), device:rack \(1 job\).* offer cpu"):
        sweeping.sweep(Plan(BUILDS, jobs), Settings(folder=tmp_path), engine=fake)
    assert (fake.orders, fake.closed) == ([], True)
    with pytest.raises(BackendMissingError, match="no worker offers cpu"):
        engine.refuse_unmet(BUILDS, [])


@pytest.mark.parametrize(
    ("machine", "says"),
    [
        ({"versions": {**versions.here(), "torch": "1.0"}}, "fake has other versions: torch 1.0 there"),
        ({"versions": {}}, "attn-export missing there"),
        ({"fault": "ModuleNotFoundError: attn_export"}, "fake takes no job: ModuleNotFoundError"),
    ],
)
def test_a_worker_that_would_give_other_results_is_refused(tmp_path: Path, machine: dict[str, Any], says: str) -> None:
    fake = Fake(**machine)
    with pytest.raises(AttnExportError, match=says):
        sweeping.sweep(Plan(BUILDS), Settings(folder=tmp_path), engine=fake)
    assert fake.orders == []


@pytest.mark.parametrize(
    ("statuses", "code"),
    [
        ([], 0),
        (["passed"], 0),
        (["passed", "died"], 5),
        (["too large", "too slow", "died"], 5),
        (["died", "GateError"], 1),
        (["UnknownNameError", "no bundle"], 1),
        (["died", "no bundle"], 5),
        (["other versions", "died"], 3),
        (["BackendMissingError"], 4),
    ],
)
def test_the_exit_code_says_the_worst(statuses: list[str], code: int) -> None:
    assert exit_code([SweepRow(str(n), status, "", 0, "") for n, status in enumerate(statuses)]) == code


def test_what_dies_is_a_row_and_takes_its_measurements_with_it(tmp_path: Path) -> None:
    seen: list[SweepRow] = []
    plan = Plan(BUILDS, (MEASURE,))
    rows = sweeping.sweep(plan, Settings(folder=tmp_path), lambda row, *_: seen.append(row), Fake("died"))
    assert [row.status for row in rows] == ["died", "died", "no bundle"]
    assert len(seen) == 3
    assert {row["label"] for row in json.loads((tmp_path / RESULTS).read_text())["rows"]} == {r.label for r in rows}


def test_a_measurement_of_no_bundle_is_no_plan(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="makes the bundle 'other'"):
        sweeping.sweep(Plan(BUILDS, (MeasureJob("other", "onnxruntime"),)), Settings(folder=tmp_path), engine=Fake())


def test_the_key_of_a_measurement_holds_all_that_it_depends_on() -> None:
    def key(job: MeasureJob = MEASURE, digest: str = "sha256:1", identity: str = "a", torch: str = "2") -> str:
        return keys.measure_key(job, digest, identity, {"torch": torch})

    changed = [
        key(MeasureJob("se-test", "tensorrt")),
        key(MeasureJob("se-test", "onnxruntime", "jetson")),
        key(MeasureJob("se-test", "onnxruntime", bench=BenchSettings(threads=2))),
        key(digest="sha256:2"),
        key(identity="b"),
        key(torch="3"),
    ]
    assert len({key(), *changed}) == 1 + len(changed)
    assert key(MeasureJob("another name", "onnxruntime")) == key(), "the very bundle counts, not what it is called"


def test_the_words_for_a_device() -> None:
    job = MeasureJob("b", "onnxruntime", "jetson", "ssh://me@jetson", BenchSettings(duration=0.5))
    words = command_line(job, "bench", Path("b"), memory=2_000_000_000)
    assert words[:4] == ["bench", "b", "--backend", "onnxruntime"]
    assert words[-4:] == ["--on", "ssh://me@jetson", "--memory-limit", "2"]
    assert "0.5" in words
    assert "--on" not in command_line(MEASURE, "verify", Path("b"))


def test_a_command_that_keeps_its_run_in_a_bundle_has_a_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = tmp_path / "b"
    bundle.mkdir()
    (bundle / "manifest.json").write_text("{}")
    monkeypatch.setattr(locks, "PLACE", tmp_path)

    def command(_: str, __: str, given: str, *words: str, timeout: float) -> subprocess.CompletedProcess[str]:
        assert timeout > 0
        Path(given, "manifest.json").write_text("with a run")
        return subprocess.CompletedProcess([], 1, f'{{"error": "{words[-1]}", "kind": "GateError"}}', "")

    monkeypatch.setattr("attn_export.pipeline.sweep.work.children.run", command)
    for address, left in (("ssh://me@jetson", "{}"), ("", "with a run")):
        one = Order(job=MeasureJob("b", "onnxruntime", "jetson", address), key="k")
        row = work(one, tmp_path, Child(), bundle)
        assert (row.status, row.message) == ("GateError", address or "1")
        assert (bundle / "manifest.json").read_text() == left


def test_an_order_travels_as_plain_data() -> None:
    for job in (BUILDS[0], MEASURE):
        one = Order(job=job, key="k", needs={"cpu": 1}, versions={"torch": "2"}, mutants="none", limit=5)
        again = order.read(json.loads(json.dumps(one.plain())))
        assert again == Order(job=job, key="k", versions={"torch": "2"}, mutants="none", limit=5)


def test_a_measurement_stands_alone_and_is_not_starved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "PLACE", tmp_path)
    inside: list[str] = []
    began = threading.Event()
    overlaps: list[list[str]] = []

    def hold(name: str, *, alone: bool) -> None:
        with locks.machine(alone=alone):
            inside.append(name)
            began.set()
            overlaps.append(list(inside))
            time.sleep(0.15)
            inside.remove(name)

    def start(name: str, *, alone: bool) -> threading.Thread:
        thread = threading.Thread(target=hold, args=(name,), kwargs={"alone": alone})
        thread.start()
        return thread

    threads = [start("build 1", alone=False)]
    began.wait()
    for name, alone in (("measure 1", True), ("build 2", False), ("build 3", False), ("measure 2", True)):
        time.sleep(0.03)
        threads.append(start(name, alone=alone))
    for thread in threads:
        thread.join()
    assert all(len(held) == 1 for held in overlaps if any(name.startswith("measure") for name in held)), overlaps
    assert [held[-1] for held in overlaps][1] == "measure 1", "the builds that came later waited"
    assert any(len(held) == 2 for held in overlaps), "builds run side by side"


@pytest.mark.parametrize(
    ("body", "limits", "status"),
    [
        ("while True: pass", {"limit": 0.2}, "too slow"),
        ("held = bytearray(300_000_000); import time; time.sleep(9)", {"limit": 9, "memory": 200_000_000}, "too large"),
        ("import os; os.kill(os.getpid(), 9)", {"limit": 9}, "died"),
        ('print(\'["passed", "fine"]\', flush=True)', {"limit": 9}, "passed"),
    ],
)
def test_a_child_answers_whatever_happens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str, limits: dict[str, Any], status: str
) -> None:
    (tmp_path / "probe.py").write_text(f"import sys\nfor line in sys.stdin:\n    {body}\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    child = Child("probe")
    try:
        assert child.ask({}, **limits).status == status
        assert child.ask({}, **limits).status == status, "and again, in a new one if need be"
    finally:
        child.end()


def test_the_table_is_written_again_only_now_and_then(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = Table(tmp_path)
    writes = 0
    save = table.save

    def counted() -> None:
        nonlocal writes
        writes += 1
        save()

    monkeypatch.setattr(table, "save", counted)
    for number in range(500):
        table.put(SweepRow(str(number), "passed", "", 0.0, ""))
    assert 1 <= writes < 400, "else a sweep of n rows writes n² of them"
    table.save()
    assert len(Table(tmp_path).rows) == 500
