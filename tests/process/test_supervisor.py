"""The parent names what happens to its child, ends what takes too much, and leaves nothing behind."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROGRAM = """
import ctypes, os, signal, subprocess, sys, tempfile, time
from pathlib import Path
from attn_export.process import activity, children, supervisor
mode, place = sys.argv[1], Path(sys.argv[2])

def work():
    print("scratch", tempfile.gettempdir(), flush=True)
    with activity.doing("running case 'b=3'", who="ONNX Runtime", model=place / "model.onnx"):
        if mode == "segfault":
            ctypes.string_at(0)
        if mode == "abort":
            os.abort()
        if mode == "library":  # what a library does that calls exit
            os._exit(1)
        if mode == "kept":
            model = Path(tempfile.mkdtemp()) / "model.onnx"
            model.write_bytes(b"model")
            model.with_name("model.onnx.data").write_bytes(b"weights")
            with activity.doing("running", model=model):
                os.abort()
        if mode == "hang":
            activity.limits(timeout=0.3)
            time.sleep(60)
        if mode == "busy":  # long, but it says that it lives
            activity.limits(timeout=0.3)
            for _ in range(20):
                time.sleep(0.05)
                activity.alive()
            return
        if mode == "deaf":  # compiled code that looks at no signal
            activity.limits(timeout=0.3)
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
            time.sleep(60)
        if mode == "memory":
            activity.limits(memory=200_000_000)
            held = [bytearray(b"x" * 1_000_000) for _ in range(600) if not time.sleep(0.002)]
        if mode == "grandchild":
            activity.limits(memory=200_000_000)
            children.run("hungry")
        if mode == "partial":
            folder = place / ".out.1.partial"
            folder.mkdir()
            with activity.partial(folder):
                os.abort()
        if mode == "orphan":
            child = children.start("sleeping", stdout=subprocess.PIPE)
            print("child", child.pid, flush=True)
            os.abort()
        if mode == "wait":
            try:
                print("ready", flush=True)
                time.sleep(60)
            finally:
                print("cleaned", flush=True)
        if mode == "swallow":  # as an exporter does that catches whatever it can
            try:
                print("ready", flush=True)
                time.sleep(60)
            except Exception:
                raise SystemExit(3)
        if mode == "wrote":
            activity.wrote(place / "out")
            print("ready", flush=True)
            time.sleep(60)
    raise SystemExit(int(mode))

sys.exit(supervisor.supervise(work, lambda text, code: print(f"said: {text} [{code}]", file=sys.stderr)))
"""
HUNGRY = "import time\nheld = [bytearray(b'x' * 1_000_000) for _ in range(600) if not time.sleep(0.002)]\n"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "program.py").write_text(PROGRAM)
    (tmp_path / "hungry.py").write_text(HUNGRY)
    (tmp_path / "sleeping.py").write_text("import time\ntime.sleep(60)\n")
    (tmp_path / "tmp").mkdir()
    return tmp_path


def start(place: Path, mode: str) -> subprocess.Popen[str]:
    paths = os.pathsep.join((str(ROOT / "src"), str(place)))
    return subprocess.Popen(
        [sys.executable, str(place / "program.py"), mode, str(place)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": paths, "TMPDIR": str(place / "tmp")},
        start_new_session=True,
    )


def end(place: Path, mode: str) -> tuple[int, str, str]:
    with start(place, mode) as process:
        out, err = process.communicate(timeout=30)
    return process.returncode, out, err


def left(place: Path) -> list[str]:
    return sorted(os.listdir(place / "tmp"))


def alive(number: int) -> bool:
    with contextlib.suppress(OSError):
        return "\nState:\tZ" not in Path(f"/proc/{number}/status").read_text()
    return False


@pytest.mark.parametrize("code", [0, 1, 5])
def test_the_exit_code_is_the_childs(place: Path, code: int) -> None:
    assert end(place, str(code))[::2] == (code, "")
    assert left(place) == []


@pytest.mark.parametrize(("mode", "name"), [("segfault", "SIGSEGV"), ("abort", "SIGABRT")])
def test_a_death_is_named_with_what_was_being_done(place: Path, mode: str, name: str) -> None:
    code, _, err = end(place, mode)
    assert code == 3
    assert err.strip().splitlines()[-1] == (
        f"said: ONNX Runtime died by {name} while running case 'b=3'; nothing was written [3]"
    )
    assert left(place) == []


def test_a_library_that_ends_the_process_gives_no_verdict(place: Path) -> None:
    """OpenBLAS calls exit(1) where it gets no memory, and 1 is what a failed gate means."""
    code, _, err = end(place, "library")
    assert code == 3
    assert "ONNX Runtime ended the process by itself (exit code 1) while running case 'b=3'" in err


def test_the_model_that_something_died_on_is_kept_with_its_weights(place: Path) -> None:
    code, _, err = end(place, "kept")
    assert code == 3
    kept = Path(err.partition("the model is kept at ")[2].partition(";")[0])
    assert kept.read_bytes() == b"model"
    assert kept.with_name("model.onnx.data").read_bytes() == b"weights"
    assert [name.startswith("attn-export-crash-") for name in left(place)] == [True]


def test_a_model_of_the_users_own_stays_where_it_is(place: Path) -> None:
    (place / "model.onnx").write_bytes(b"mine")
    assert f"the model is kept at {place / 'model.onnx'}" in end(place, "abort")[2]
    assert (place / "model.onnx").read_bytes() == b"mine"


@pytest.mark.parametrize("mode", ["hang", "deaf"])
def test_a_step_that_takes_too_long_is_stopped(place: Path, mode: str) -> None:
    began = time.monotonic()
    code, _, err = end(place, mode)
    assert code == 3
    assert "ONNX Runtime took longer than 0.3 s while running case 'b=3'" in err
    assert "--timeout" in err
    assert time.monotonic() - began < 5


def test_a_long_step_that_says_it_lives_is_left_alone(place: Path) -> None:
    assert end(place, "busy")[0] == 0


@pytest.mark.parametrize("mode", ["memory", "grandchild"])
def test_what_holds_too_much_memory_is_stopped_children_counted(place: Path, mode: str) -> None:
    code, _, err = end(place, mode)
    assert code == 3
    assert "GB of memory while running case 'b=3'" in err
    assert "0.2 GB are allowed" in err
    assert "--memory-limit" in err


def test_a_partial_folder_goes_with_the_child_that_filled_it(place: Path) -> None:
    assert end(place, "partial")[0] == 3
    assert not list(place.glob(".*.partial"))


def test_no_grandchild_outlives_the_run(place: Path) -> None:
    code, out, _ = end(place, "orphan")
    assert code == 3
    number = int(out.partition("child ")[2].split()[0])
    deadline = time.monotonic() + 5
    while alive(number) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not alive(number)


@pytest.mark.parametrize("group", [False, True])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_told_to_stop_it_cleans_up_and_gives_the_shells_code(place: Path, number: signal.Signals, group: bool) -> None:
    with start(place, "wait") as process:
        assert process.stdout is not None
        while "ready" not in process.stdout.readline():
            pass
        (os.killpg if group else os.kill)(process.pid, number)
        out, _ = process.communicate(timeout=30)
    assert process.returncode == 128 + number
    assert "cleaned" in out
    assert left(place) == []


def test_whoever_swallows_exceptions_does_not_swallow_an_interrupt(place: Path) -> None:
    with start(place, "swallow") as process:
        assert process.stdout is not None
        while "ready" not in process.stdout.readline():
            pass
        os.kill(process.pid, signal.SIGINT)
        process.communicate(timeout=30)
    assert process.returncode == 130


def test_what_was_written_before_the_interrupt_is_said(place: Path) -> None:
    with start(place, "wrote") as process:
        assert process.stdout is not None
        while "ready" not in process.stdout.readline():
            pass
        os.kill(process.pid, signal.SIGTERM)
        time.sleep(0.2)
        process.communicate(timeout=30)
    assert process.returncode == 143


def test_a_killed_run_leaves_a_folder_that_the_next_one_sweeps(place: Path) -> None:
    with start(place, "wait") as process:
        assert process.stdout is not None
        while "ready" not in process.stdout.readline():
            pass
        assert len(left(place)) == 1
        other = end(place, "0")
        assert other[0] == 0
        assert len(left(place)) == 1, "a living run's folder is not swept"
        process.kill()
        process.communicate(timeout=30)
    deadline = time.monotonic() + 5
    while len(left(place)) == 1 and time.monotonic() < deadline:
        end(place, "0")  # the killed parent's child dies a moment after it
    assert left(place) == []
