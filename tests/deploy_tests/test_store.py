"""The store: equal runs once, copies merged, one writer at a time, half of nothing, and nothing foreign believed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from attn_export.deploy_tests.machine.which import this_machine
from attn_export.deploy_tests.store import folder, index
from attn_export.deploy_tests.store import record as records
from attn_export.deploy_tests.store.figures import FRESH, ONE, figures
from attn_export.deploy_tests.store.record import Machine, Record, Subject
from attn_export.errors import LoadError, WriteError
from tests.floats import floats

HERE = Machine("0123456789abcdef", "here", "a processor", 2)
NET = Subject("net", "sha256:00", artifact="model", precision="float32", backend="toy", clock="CPU time", inputs="x 1")
FEW = settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


def run(ms: float = 1.0, when: float = 0.0, *, subject: Subject = NET, machine: Machine = HERE) -> Record:
    ends = {"estimate": ms, "low": 0.99 * ms, "high": 1.01 * ms}
    control = {"estimate": 1.0, "low": 0.995, "high": 1.005}
    plain = {"repeated": {"time_ms": ends, "control": control}, "environment": {"libraries": {"toy": "1.0"}}}
    return records.made("bench", machine, (subject,), {"runs": [plain]}, when)


def times(root: Path, **asked: Any) -> list[float | None]:
    with index.opened(root) as found:
        return [point.figure.estimate for point in found.points(**asked)]


@pytest.fixture
def on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the index in a cache of the test's own; elsewhere it is in memory, as tests have no cache."""
    monkeypatch.delenv("ATTN_EXPORT_CACHE_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_the_same_report_twice_is_one_row(tmp_path: Path) -> None:
    name = folder.put(tmp_path / "store", run())
    assert folder.put(tmp_path / "store", run()) == name
    assert times(tmp_path / "store") == [1.0]
    folder.put(tmp_path / "store", run(when=1))
    assert times(tmp_path / "store") == [1.0, 1.0], "measured twice"


def test_one_measurement_under_two_digests_is_one_row(tmp_path: Path) -> None:
    for digest in ("sha256:00", "sha256:11"):
        folder.put(tmp_path, run(subject=replace(NET, digest=digest)))
    assert times(tmp_path) == [1.0]
    assert times(tmp_path, digest="sha256:11") == [1.0]


@pytest.mark.usefixtures("on_disk")
def test_two_stores_are_merged_by_copying(tmp_path: Path) -> None:
    for place, moments in (("a", (0, 2, 3)), ("b", (1, 3))):
        for when in moments:
            folder.put(tmp_path / place, run(1.0 + when, when))
    assert times(tmp_path / "a") == [1.0, 3.0, 4.0]
    shutil.copytree(tmp_path / "b", tmp_path / "a", dirs_exist_ok=True)
    assert times(tmp_path / "a") == [1.0, 2.0, 3.0, 4.0]
    shutil.rmtree(tmp_path / "a")
    shutil.copytree(tmp_path / "b", tmp_path / "a")
    assert times(tmp_path / "a") == [2.0, 4.0], "what is gone is not remembered"


def test_subjects_are_listed_and_told_apart(tmp_path: Path) -> None:
    folder.put(tmp_path, run(1.0, 0))
    folder.put(tmp_path, run(2.0, 1, subject=replace(NET, name="other", digest="sha256:22")))
    with index.opened(tmp_path) as found:
        assert [(one.name, one.runs) for one in found.known()] == [("net", 1), ("other", 1)]
    assert times(tmp_path, name="other") == times(tmp_path, digest="sha256:22") == [2.0]
    assert times(tmp_path, name="neither") == []


WRITER = """
import sys
from pathlib import Path
from tests.deploy_tests.test_store import run
from attn_export.deploy_tests.store import folder
for i in range(int(sys.argv[2]), int(sys.argv[3])):
    folder.put(Path(sys.argv[1]), run(1.0 + i, i))
    print(i, flush=True)
"""


def writer(root: Path, first: int, last: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WRITER, str(root), str(first), str(last)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2])


def test_writers_at_once_and_a_killed_one_leave_whole_runs(tmp_path: Path) -> None:
    writers = [writer(tmp_path, 0, 16), writer(tmp_path, 8, 24)]
    killed = writer(tmp_path, 100, 100_000)
    assert killed.stdout
    for _ in range(5):
        killed.stdout.readline()
    time.sleep(0.01)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    for one in writers:
        one.communicate()
        assert one.returncode == 0
    with index.opened(tmp_path) as found:
        assert found.skipped() == {}
        whole = {point.figure.estimate for point in found.points()}
    assert {1.0 + i for i in range(24)} <= whole
    assert len(whole) >= 29
    folder.put(tmp_path, run())
    assert [name for name in os.listdir(tmp_path / "runs") if name.endswith(".partial")] == [], "the next one sweeps"


def test_a_write_that_breaks_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.put(tmp_path, run())

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(WriteError, match="No space left"):
        folder.put(tmp_path, run(2.0, 1))
    assert [name for name in os.listdir(tmp_path / "runs") if name.startswith(".")] == []
    assert times(tmp_path) == [1.0]


def test_a_store_that_stays_locked_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from attn_export.process import folders

    monkeypatch.setattr(folder, "PATIENCE", 0.05)
    lock = folders.claim(folder.ready(tmp_path) / "runs")
    assert lock is not None
    try:
        with pytest.raises(WriteError, match=r"keeps .* locked"):
            folder.put(tmp_path, run())
    finally:
        os.close(lock)
    folder.put(tmp_path, run())


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(WriteError, match=r"thesis\.tex"):
        folder.put(tmp_path, run())
    assert os.listdir(tmp_path) == ["thesis.tex"]
    with pytest.raises(LoadError, match="is not a store"), index.opened(tmp_path):
        pass


def swapped(place: Path) -> None:
    place.write_bytes(place.read_bytes().replace(b"1.0", b"0.1"))


def cut(place: Path) -> None:
    place.write_bytes(place.read_bytes()[:-20])


def linked(place: Path) -> None:
    place.rename(place.parent.parent.parent / "elsewhere")
    place.symlink_to(place.parent.parent.parent / "elsewhere")


def huge(place: Path) -> None:
    os.truncate(place, folder.MOST + 1)


def pipe(place: Path) -> None:
    place.unlink()
    os.mkfifo(place)


def renamed(place: Path) -> None:
    place.rename(place.with_name("run.json"))


def foreign(place: Path) -> None:
    (place.parents[1] / "README").write_text("not a folder of runs")
    swapped(place)


@pytest.mark.usefixtures("on_disk")
@pytest.mark.parametrize("harm", [swapped, cut, linked, huge, pipe, renamed, foreign])
def test_what_is_damaged_or_foreign_is_named_and_skipped(tmp_path: Path, harm: Callable[[Path], None]) -> None:
    root = tmp_path / "store"
    name = folder.put(root, run(1.0, 0))
    folder.put(root, run(2.0, 1))
    assert times(root) == [1.0, 2.0]
    harm(root / name)
    with index.opened(root) as found:
        assert [point.figure.estimate for point in found.points()] == [2.0]
        assert len(found.skipped()) == (2 if harm is foreign else 1)
        assert all(why for why in found.skipped().values())
    if harm in (swapped, cut):
        folder.put(root, run(1.0, 0))
        assert times(root) == [1.0, 2.0], "put again, it is whole again"


def test_no_link_leads_a_writer_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "victim").mkdir()
    root = folder.ready(tmp_path / "store")
    for name in range(256):
        (root / "runs" / f"{name:02x}").symlink_to(tmp_path / "victim")
    with pytest.raises(WriteError, match="link"):
        folder.put(root, run())
    assert os.listdir(tmp_path / "victim") == []


def valid(content: bytes) -> str:
    import hashlib

    return hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "other"},
        {"recorded": "../../etc/passwd"},
        {"schema_version": 2},
        {"subjects": [{"name": ""}]},
        {"subjects": [{"name": "n", "threads": 10**30}]},
        {"machine": {"id": "x"}},
        {"more": 1},
        {"report": []},
    ],
)
def test_a_file_with_the_right_name_must_be_a_run_too(tmp_path: Path, change: dict[str, Any]) -> None:
    folder.put(tmp_path, run())
    content = json.dumps({**json.loads(run().content()), **change}).encode()
    digest = valid(content)
    place = tmp_path / "runs" / digest[:2]
    place.mkdir(exist_ok=True)
    (place / f"{digest}.json").write_bytes(content)
    with index.opened(tmp_path) as found:
        assert list(found.skipped()) == [f"runs/{digest[:2]}/{digest}.json"]
        assert len(found.points()) == 1


#: Whatever JSON can hold, where figures are looked for.
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**18), 10**18) | floats()
    | st.sampled_from(["", "x", "CPU time"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(
            ["estimate", "low", "high", "time_ms", "control", "ratio", "samples", "wall_ns", "cpu_ns", "ok", "baseline",
             "comparisons", "centred", "outputs", "median_db", "limit_db", "snr_db_limit", "normalized_error"]
        ), inner, max_size=4,
    ),
    max_leaves=12,
)  # fmt: skip
KEYS = st.sampled_from(["repeated", "latency", "comparison", "parity", "environment", "level"])


@FEW
@given(st.lists(st.dictionaries(KEYS, JSON, max_size=4) | JSON, max_size=2), JSON)
def test_no_report_breaks_the_index(runs: list[Any], compared: Any) -> None:
    made = records.made("bench", HERE, (NET, NET), {"runs": runs, "comparison": compared, "environment": compared}, 0)
    for at, figure in figures(made):
        assert at in (0, 1)
        assert figure.metric == "error" or (figure.low is not None and figure.estimate is not None)
    connection = index._connected(":memory:", rebuild=False)
    for at, _ in figures(made):
        json.dumps(index._facts(made, at))
    connection.close()


def test_figures_of_a_report() -> None:
    latency = {"samples": {"every": 1, "wall_ns": [9_000_000] * 50, "cpu_ns": list(range(10**6, 10**6 + 101))}}
    parity = {"ok": False, "normalized_limit": 4.0, "comparisons": [{"normalized_error": 5.0}, {"normalized_error": 1}]}
    lost = {"ok": False, "normalized_limit": 4.0, "comparisons": [{"normalized_error": None, "failure": "NaN"}]}
    coarse = {"ok": True, "snr_db_limit": 40.0, "comparisons": [{"snr_db": 60.0}, {"snr_db": 50.0}]}
    made = records.made(
        "export",
        HERE,
        (NET,) * 4,
        {
            "runs": [
                {"latency": latency, "parity": parity},
                {"parity": lost},
                {"parity": coarse},
                {"level": 2, "parity": lost},
            ]
        },
        0,
    )
    found = [figure for _, figure in figures(made)]
    time, k, nan, snr = found
    assert (time.how, time.unit) == (ONE, "ms")
    assert (time.estimate, time.low, time.high) == pytest.approx((1.00005, 1.000039, 1.000061), abs=2e-6)
    assert (k.estimate, k.limit, k.ok) == (5.0, 4.0, False)
    assert (nan.estimate, nan.ok) == (None, False)
    assert (snr.unit, snr.estimate, snr.limit, snr.ok) == ("dB", 50.0, 40.0, True)


def test_a_ratio_without_a_control_is_none() -> None:
    ends = {"estimate": 1.0, "low": 0.9, "high": 1.1}
    for control, count in ((ends, 1), (None, 0)):
        plain = {"runs": [{}, {}], "comparison": {"ratio": ends, "control": control, "baseline": "typed"}}
        made = records.made("bench", HERE, (NET, replace(NET, name="b", fused=True)), plain, 0)
        assert len(list(figures(made))) == count
    alone = records.made("bench", HERE, (NET,), {"runs": [{"repeated": {"time_ms": ends}}]})
    assert [one.how for _, one in figures(alone)] == [FRESH]


def databases() -> list[Callable[[Path], None]]:
    def text(file: Path) -> None:
        file.write_bytes(b"this is no database at all, and longer than its head is" * 100)

    def other(file: Path) -> None:
        file.unlink()
        connection = sqlite3.connect(file)
        connection.executescript("CREATE TABLE file (name); PRAGMA user_version = 1;")
        connection.close()

    def older(file: Path) -> None:
        connection = sqlite3.connect(file)
        connection.execute("PRAGMA user_version = 77")
        connection.close()

    return [text, other, older]


@pytest.mark.usefixtures("on_disk")
@pytest.mark.parametrize("harm", databases())
def test_an_index_that_does_not_match_is_made_again(tmp_path: Path, harm: Callable[[Path], None]) -> None:
    folder.put(tmp_path / "store", run())
    assert times(tmp_path / "store") == [1.0]
    for file in (tmp_path / "cache").rglob("*.sqlite"):
        harm(file)
    assert times(tmp_path / "store") == [1.0]
    with index.opened(tmp_path / "store", rebuild=True) as found:
        assert len(found.points()) == 1


def test_a_run_that_json_cannot_hold_is_made_one(tmp_path: Path) -> None:
    odd = {"runs": [], "nan": float("nan"), "tuple": (1, float("inf")), "half": "\udce9", 3: "key"}
    name = folder.put(tmp_path, records.made("verify", HERE, (), odd, 0))
    plain = {"runs": [], "nan": None, "tuple": [1, None], "half": "\\udce9", "3": "key"}
    assert folder.read(tmp_path, name).report == plain


def test_a_machine_is_told_by_its_id_and_the_id_tells_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ATTN_EXPORT_MACHINE", raising=False)
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/machine-id").write_text("c0ffee\n")
    one = this_machine(root=tmp_path)
    assert one == this_machine(root=tmp_path)
    assert "c0ffee" not in str(one)
    (tmp_path / "etc/machine-id").write_text("decaf\n")
    assert this_machine(root=tmp_path).id != one.id
    monkeypatch.setenv("ATTN_EXPORT_MACHINE", "runner")
    named = this_machine(root=tmp_path)
    (tmp_path / "etc/machine-id").write_text("tea\n")
    assert (named.name, named) == ("runner", this_machine(root=tmp_path))
