"""What a backend says of itself and can do: asked in one place, with cautious defaults, and blamed where it breaks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest

from attn_export.deploy_tests import backends
from attn_export.deploy_tests.backend import CompileOptions, EngineFigures, Kernel, Options, Run, Traits
from attn_export.deploy_tests.data import user_data
from attn_export.deploy_tests.latency.comparison import clock_of
from attn_export.errors import BackendError, UnknownNameError, UsageError
from attn_export.registry import Entry
from attn_export.types import Feeds


class Plain:
    """The least that is a backend."""

    def missing(self) -> None:
        return None

    def version(self) -> str:
        return "plain 1"

    @contextmanager
    def open(self, model: Path, options: Options) -> Iterator[Run]:
        yield self.run

    def run(self, feeds: Feeds) -> dict[str, np.ndarray]:
        return {"y": np.asarray(feeds["x"]) + 1}


class Able(Plain):
    """All that a backend can be."""

    accepts: ClassVar = ["toy"]  # a list is as good as a tuple
    wants_shape_ranges = True
    runs_on_own_threads = True
    compiles_for = ("board",)

    def profile(self, model: Path, feeds: Feeds, options: Options, runs: int) -> Iterator[SimpleNamespace]:
        yield SimpleNamespace(name="k", op="Add", microseconds=runs)

    def measure_engine(self, run: Run, feeds: Feeds, *, duration: float, samples: int) -> EngineFigures:
        assert run == self.run, "its own run, and not what it was wrapped in"
        return EngineFigures({"gpu": [1.0] * samples}, {"gpu": "board"}, {})

    def missing_compiler(self) -> None:
        return None

    def compile_only(self, model: Path, options: CompileOptions) -> str:
        return f"{model.name} for {options.device}"


@pytest.fixture(autouse=True)
def plug_ins(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two backends of another distribution beside ours."""
    known = {name: backends.BACKENDS.entry(name) for name in backends.BACKENDS}
    made = {"plain": Plain(), "able": Able()}
    entries = known | {name: Entry("plug-in", name, None) for name in made}
    ours = type(backends.BACKENDS).__getitem__
    monkeypatch.setattr(backends.BACKENDS, "entries", entries)
    monkeypatch.setattr(
        type(backends.BACKENDS), "__getitem__", lambda self, name: made[name] if name in made else ours(self, name)
    )


def test_what_is_left_out_has_its_default() -> None:
    assert backends.traits("plain") == Traits()
    assert backends.traits("able").accepts == ("toy",)
    assert backends.traits("able").libraries == ()


def test_an_attribute_of_another_type_is_the_backends_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Able, "libraries", "onnx", raising=False)
    with pytest.raises(BackendError, match="able: expected libraries to be a tuple, got str"):
        backends.traits("able")


def test_the_default_is_one_of_ours_and_can_serve_as_reference() -> None:
    assert backends.BACKENDS.entry(backends.DEFAULT).path
    assert backends.traits(backends.DEFAULT).can_skip_optimization
    with pytest.raises(BackendError, match="plain always optimises"):
        next(user_data._agreements(Path("m.onnx"), {}, "plain"))


def test_the_clock_is_cpu_time_only_where_own_threads_do_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1, 2})
    pinned = "wall time on pinned cores"
    assert [clock_of([name], 1) for name in ("able", "plain")] == ["CPU time", pinned]
    assert clock_of(["able", "plain"], 1) == pinned, "both sides by one clock"
    assert clock_of(["able"], 2) == pinned
    assert clock_of(["able"], 3) == "wall time", "there is no core to leave out"


def test_a_file_of_another_kind_is_refused_before_the_backend_sees_it(tmp_path: Path) -> None:
    with (
        pytest.raises(BackendError, match=r"able: expected a file of kind toy, got m\.onnx"),
        backends.opened("able", tmp_path / "m.onnx", Options()),
    ):
        pass
    with backends.opened("able", tmp_path / "m.toy", Options()) as run:
        assert run({"x": np.array(1)})["y"] == 2


def test_abilities_are_found_and_their_absence_is_said(tmp_path: Path) -> None:
    assert backends.profile("able", tmp_path, {}, Options(), 7) == (Kernel("k", "Add", 7.0),)
    with pytest.raises(UsageError, match="plain has no profiler"):
        backends.profile("plain", tmp_path, {}, Options(), 7)
    with backends.opened("able", tmp_path / "m.toy", Options()) as run:
        figures = backends.measure_engine("able", run, {}, duration=0, samples=3)
        assert figures is not None
        assert figures.samples_ms == {"gpu": [1.0] * 3}
        assert backends.measure_engine("plain", run, {}, duration=0, samples=3) is None
    assert backends.compiler_for("board") == "able"
    assert backends.compiler_for("nothing") is None
    assert str(backends.compile_only("able", Path("m.toy"), CompileOptions("b1"))) == "m.toy for b1"
    with pytest.raises(UnknownNameError, match="no backend that compiles without a device 'plain'"):
        backends.compile_only("plain", Path("m.toy"), CompileOptions("b1"))


def test_what_an_ability_breaks_on_is_the_plug_ins(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(Able, "profile", lambda *_: 1 / 0)
    with pytest.raises(BackendError, match="able broke while profiling the model: ZeroDivisionError"):
        backends.profile("able", tmp_path, {}, Options(), 7)
