"""What a cluster does not promise: every order ends in one row, whatever is lost, killed or gone."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import pytest

from attn_export.errors import LoadError
from attn_export.pipeline.sweep import attempt, farm, order, versions
from attn_export.pipeline.sweep.child import Child
from attn_export.pipeline.sweep.engine import Done, Machine
from attn_export.pipeline.sweep.farm import Answered, Broken, Farm, GoneError, Lost, Outcome
from attn_export.pipeline.sweep.job import MeasureJob, SweepJob
from attn_export.pipeline.sweep.order import Order

TWO = (Machine("a", {"cpu": 2, "device:rack": 1}), Machine("b", {"cpu": 1}))
BUILDS = [Order(job=SweepJob("se", str(n), fuse=False), key=f"key{n}", needs={"cpu": 1}) for n in range(8)]
MEASURES = [
    Order(job=MeasureJob(f"se-{n}", "onnxruntime", "rack"), key=f"m{n}", needs={"device:rack": 1, "cpu": 2})
    for n in range(3)
]


def passed(one: Order) -> Outcome:
    return Answered(asdict(one.row("passed", "")), {})


class Fake:
    """A cluster on which an order ends as ``ends`` says, a few at a time; its clock runs as it is asked."""

    def __init__(self, ends: Callable[[Order], Outcome] = passed, machines: Sequence[Machine] = TWO) -> None:
        self.ends, self.there = ends, machines
        self.out: dict[str, Order] = {}
        self.most, self.sent = Counter[str](), Counter[str]()
        self.now, self.gone, self.comes_back, self.connections = 0.0, False, True, 1
        self.cancelled: list[str] = []

    def machines(self) -> Sequence[Machine]:
        if self.gone:
            raise GoneError("no answer")
        return self.there

    def present(self) -> Sequence[Machine]:
        return self.machines()

    def send(self, tag: str, one: Order) -> None:
        if self.gone:
            raise GoneError("no way")
        assert tag not in self.out
        self.out[tag] = one
        self.sent[one.key] += 1
        for name in one.needs:
            self.most[name] = max(self.most[name], sum(name in other.needs for other in self.out.values()))

    def settled(self, timeout: float) -> list[tuple[str, Outcome]]:
        self.now += timeout
        if self.gone:
            raise GoneError("the line is dead")
        ended = list(self.out)[:2] if self.there else []
        return [(tag, self.ends(self.out.pop(tag))) for tag in ended]

    def cancel(self, tag: str) -> None:
        self.cancelled.append(tag)
        del self.out[tag]

    def reconnect(self, patience: float) -> None:
        self.connections += 1
        self.out.clear()
        if not self.comes_back:
            raise GoneError(f"not back in {patience:.0f} s")
        self.gone = False

    def close(self) -> None:
        pass


def ran(cluster: Fake, orders: Sequence[Order], patience: float = 20) -> Iterator[Done]:
    engine = Farm(cluster, patience, clock=lambda: cluster.now)
    engine.machines()
    for one in orders:
        engine.submit(one)
    return engine.as_completed()


def ends(done: Sequence[Done], orders: Sequence[Order]) -> list[str]:
    """The statuses in the orders' order; each order must have ended once."""
    found = {one.order.key: one.row.status for one in done}
    assert len(done) == len(found) == len(orders)
    assert all(one.row.label == one.order.job.label and one.row.key == one.order.key for one in done)
    return [found[one.key] for one in orders]


def test_no_more_goes_out_than_there_is_room_for() -> None:
    cluster = Fake()
    orders = [*BUILDS, *MEASURES]
    assert ends(list(ran(cluster, orders)), orders) == ["passed"] * 11
    assert cluster.most == {"cpu": 4, "device:rack": 1}, "three builds, and a measurement that waits for its machine"
    assert set(cluster.sent.values()) == {1}


def test_an_order_that_comes_while_others_end_is_run_too() -> None:
    cluster = Fake()
    engine = Farm(cluster, clock=lambda: cluster.now)
    engine.machines()
    engine.submit(BUILDS[0])
    done = []
    for one in engine.as_completed():
        done.append(one)
        if len(done) < 5:
            engine.submit(BUILDS[len(done)])
    assert len(done) == 5


def test_what_is_lost_goes_out_again_and_not_for_ever() -> None:
    cluster = Fake(lambda one: Lost("gone") if one is BUILDS[2] or cluster.sent[one.key] == 1 else passed(one))
    done = list(ran(cluster, BUILDS))
    assert ends(done, BUILDS) == ["passed", "passed", "died", *["passed"] * 5]
    assert cluster.sent[BUILDS[2].key] == farm.TRIES
    (row,) = [one.row for one in done if one.row.status == "died"]
    assert "lost 3 times: gone" in row.message


def test_a_job_that_killed_its_workers_is_not_sent_again() -> None:
    cluster = Fake(lambda one: Broken("died", "2 workers died") if one is BUILDS[1] else passed(one))
    assert ends(list(ran(cluster, BUILDS)), BUILDS)[1] == "died"
    assert cluster.sent[BUILDS[1].key] == 1


def test_an_answer_that_is_no_row_is_a_death() -> None:
    cluster = Fake(lambda one: Answered({**asdict(one.row("passed", "")), "seconds": "1"}, {}))
    assert ends(list(ran(cluster, BUILDS)), BUILDS) == ["died"] * 8


@pytest.mark.parametrize("comes_back", [True, False])
def test_a_scheduler_that_goes_loses_nothing_that_was_finished(comes_back: bool) -> None:
    cluster = Fake()
    cluster.comes_back = comes_back
    done = []
    for one in ran(cluster, BUILDS):
        done.append(one)
        if len(done) == 3:
            cluster.gone = True
    statuses = ends(done, BUILDS)
    assert cluster.connections == 2
    assert Counter(statuses) == ({"passed": 8} if comes_back else {"passed": 4, "died": 4})
    assert all(cluster.sent[one.key] == 1 for one in BUILDS[:4]), "what had ended is not computed again"
    if not comes_back:
        assert {one.row.message for one in done if one.row.status == "died"} == {"not back in 20 s"}


def test_what_nobody_offers_any_more_is_given_up_and_the_rest_goes_on() -> None:
    cluster = Fake()
    done = []
    for one in ran(cluster, [*BUILDS, *MEASURES]):
        done.append(one)
        cluster.there = TWO[1:]  # the one beside the device has gone
        if one.order is BUILDS[0]:
            cluster.ends = lambda order: passed(order) if order in BUILDS else Lost("its worker left")
    statuses = ends(done, [*BUILDS, *MEASURES])
    assert statuses[:8] == ["passed"] * 8
    assert "died" in statuses[8:]
    messages = {one.row.message for one in done if one.row.status == "died"}
    assert messages <= {
        "for 20 s no worker has offered device:rack with cpu",
        "its result was lost 3 times: its worker left",
    }


def test_no_worker_for_a_while_is_no_death() -> None:
    cluster = Fake()
    done = []
    for one in ran(cluster, BUILDS, patience=60):
        done.append(one)
        if len(done) == 2:
            cluster.there = ()
            back = cluster.now + 30

            def machines(back: float = back) -> Sequence[Machine]:
                cluster.there = TWO if cluster.now > back else ()
                return cluster.there

            cluster.machines = machines  # type: ignore[method-assign]
    assert ends(done, BUILDS) == ["passed"] * 8
    cluster = Fake(machines=())
    assert ends(list(ran(cluster, BUILDS)), BUILDS) == ["died"] * 8


def test_a_scheduler_that_is_gone_at_once_is_said() -> None:
    cluster = Fake()
    cluster.gone = True
    with pytest.raises(LoadError, match="no answer"):
        Farm(cluster).machines()


PROBE = """
import json, sys
from pathlib import Path
for line in sys.stdin:
    job = json.loads(line)
    Path(job["log"]).write_text("said\\n")
    with open({count!r}, "a") as file:
        file.write("x")
    Path(job["target"]).mkdir()
    Path(job["target"], "model.onnx").write_bytes(b"weights")
    print(json.dumps([job["preset"], "done", {{}}]), flush=True)
"""


@pytest.fixture
def probe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A module that runs builds; a file that has a letter for each."""
    count = tmp_path / "count"
    (tmp_path / "attempt_probe.py").write_text(PROBE.format(count=str(count)))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    idle: dict[str, list[Child]] = {}
    monkeypatch.setattr(attempt, "_idle", idle)
    yield count
    for child in (child for kept in idle.values() for child in kept):
        child.end()


def asked(preset: str = "passed", **changed: str) -> dict[str, object]:
    job = SweepJob("se", preset, fuse=False)
    return Order(job=job, key="k", versions={**versions.here(), **changed}, module="attempt_probe").plain()


def test_an_attempt_is_done_once_for_all_who_ask(tmp_path: Path, probe: Path) -> None:
    folder = tmp_path / "farm"
    first = attempt.attempt(asked(), {}, folder=folder)
    assert first["row"]["status"] == "passed"
    assert first["files"] == {"se-passed.log": b"said\n", "se-passed/model.onnx": b"weights"}
    assert first["row"]["where"]
    assert first["row"]["began"] > 0
    assert [path.name for path in folder.iterdir()] == ["k"], "no half folder is left"
    assert attempt.attempt(asked(), {}, folder=folder) == first
    assert probe.read_text() == "x"
    json.dumps(first["row"])


def test_an_attempt_that_failed_leaves_nothing_but_its_row_and_log(tmp_path: Path, probe: Path) -> None:
    folder = tmp_path / "farm"
    for times in ("x", "xx"):
        found = attempt.attempt(asked("GateError"), {}, folder=folder)
        assert found["row"]["status"] == "GateError"
        assert "se-GateError.log" in found["files"]
        assert list(folder.iterdir()) == []
        assert probe.read_text() == times


def test_a_worker_with_other_versions_runs_nothing(tmp_path: Path, probe: Path) -> None:
    found = attempt.attempt(asked(torch="1.0"), {}, folder=tmp_path / "farm")
    assert found["row"]["status"] == "other versions"
    assert "torch" in found["row"]["message"]
    assert not probe.exists()


def test_what_is_old_is_removed(tmp_path: Path, probe: Path) -> None:
    folder = tmp_path / "farm"
    for name in (".half.0123", "old", "young"):
        (folder / name).mkdir(parents=True)
    for name in (".half.0123", "old"):
        os.utime(folder / name, (0, 0))
    attempt.attempt(asked(), {}, folder=folder)
    assert {path.name for path in folder.iterdir()} == {"young", "k"}
    assert order.read(asked()).key == "k"
