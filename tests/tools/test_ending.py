"""Every end has a code of its own: a crash is never a verdict, and never silent."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from attn_export.errors import GateError, InconclusiveError, SubjectError
from attn_export.process.activity import Activity
from attn_export.process.supervisor import StopError
from attn_export.tools import ending
from tests.tools.run import run

ROOT = Path(__file__).parents[2]


def raises(error: BaseException) -> Callable[[], None]:
    def work() -> None:
        raise error

    return work


@pytest.fixture(autouse=True)
def words(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "argv", ["attn-export", "verify", "x"])
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("attn_export.process.activity._Own.now", Activity())


@pytest.mark.parametrize(
    ("error", "code", "sentence"),
    [
        (GateError("parity fails"), 1, "error: parity fails"),
        (InconclusiveError("vacuous"), 5, "error: vacuous"),
        (SubjectError("no such file"), 3, "error: no such file"),
        (ModuleNotFoundError("No module named 'torch.nn'", name="torch.nn"), 3, "pip install 'attn-export[export]'"),
        (ModuleNotFoundError("No module named 'jinja2'", name="jinja2"), 3, "pip install 'attn-export[report]'"),
        (MemoryError(), 3, "error: not enough memory while "),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), 3, "error: not enough memory while "),
        (ImportError("libtorch_cpu.so: failed to map segment", name="torch._C"), 3, "torch._C cannot be loaded: libt"),
        (ImportError("cannot import name 'x'", name="attn_export.bundle"), 70, "attn-export itself failed"),
        (
            OSError(errno.ENOSPC, "No space left on device", "x.npz"),
            3,
            "error: x.npz: No space left on device; nothing",
        ),
        (PermissionError(errno.EACCES, "Permission denied", "/root/x"), 3, "error: /root/x: Permission denied"),
        (StopError(signal.SIGTERM), 143, "terminated; nothing was written"),
        (KeyboardInterrupt(), 130, "interrupted; nothing was written"),
        (ending.ClosedError(), 141, ""),
        (KeyError("x"), 70, "error: attn-export itself failed (KeyError: 'x')"),
        (ModuleNotFoundError("No module named 'mine'", name="mine"), 70, "attn-export itself failed"),
        (RecursionError("too deep"), 70, "attn-export itself failed"),
        (FileNotFoundError(errno.ENOENT, "No such file", "inner"), 70, "attn-export itself failed"),
        (SystemExit(2), 2, ""),
        (SystemExit(None), 0, ""),
    ],
)
def test_each_kind_of_end_has_its_code_and_one_sentence(
    error: BaseException, code: int, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ending.coded(raises(error)) == code
    err = capsys.readouterr().err
    assert sentence in err
    assert err.count("\n") == bool(sentence)
    assert "Traceback" not in err


def test_a_fault_of_ours_leaves_its_traceback_in_a_log_that_outlives_the_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ending.coded(raises(KeyError("\x1b[31mx"))) == ending.OURS
    err = capsys.readouterr().err
    assert "\x1b" not in err
    log = Path(err.partition("the traceback is in ")[2].partition(",")[0])
    assert log.is_relative_to(tmp_path)
    assert "in raises" not in err
    assert "KeyError" in log.read_text()
    assert "command: 'attn-export' 'verify' 'x'" in log.read_text()
    assert log.parent.stat().st_mode & 0o077 == 0, "what a user typed is for no other user"


def test_where_no_log_can_be_written_the_way_out_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("tempfile.tempdir", "/nowhere")
    assert ending.coded(raises(KeyError("x"))) == ending.OURS
    assert "run it again with --debug" in capsys.readouterr().err


def test_debug_shows_the_traceback(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["attn-export", "verify", "x", "--debug"])
    assert ending.coded(raises(GateError("no"))) == 1
    assert "Traceback" in capsys.readouterr().err


def test_json_says_it_as_one_object(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["attn-export", "verify", "x", "--json"])
    assert ending.coded(raises(KeyError("x"))) == ending.OURS
    assert json.loads(capsys.readouterr().out)["exit_code"] == ending.OURS


def test_an_interrupt_that_somebody_turned_into_an_error_is_still_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("attn_export.process.supervisor._Told.number", int(signal.SIGINT))
    assert ending.coded(raises(SubjectError("the exporter failed: no message"))) == 130
    assert "interrupted; nothing was written" in capsys.readouterr().err


def test_every_command_takes_the_limits() -> None:
    from attn_export.tools.cli import app

    names = [command.name or command.callback.__name__ for command in app.registered_commands if command.callback]
    assert len(names) > 11
    for name in names:
        text = run(name, "--help").out
        assert "--timeout" in text, name
        assert "--memory-limit" in text, name
        assert "--debug" in text, name


def shell(line: str, folder: Path) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "AX": f"{sys.executable} -m attn_export"}
    return subprocess.run(["bash", "-c", line], cwd=folder, capture_output=True, text=True, check=False, env=env)


@pytest.mark.parametrize(
    ("line", "code", "err"),
    [
        ("$AX list", 0, ""),
        ("$AX list > /dev/full", 3, "error: cannot write to standard output: No space left on device\n"),
        ("$AX --help > /dev/full", 3, "error: cannot write to standard output: No space left on device\n"),
        ("$AX list | true; exit ${PIPESTATUS[0]}", 141, ""),
        ("$AX --help | true; exit ${PIPESTATUS[0]}", 141, ""),
        ("$AX list >&-", 0, ""),
        ("$AX list 2>&- >&- <&-", 0, ""),
        ("$AX nosuch 2> >(exec true)", 2, ""),
        ("$AX nosuch 2> /dev/full", 2, ""),
        ("mkdir gone; cd gone; rmdir ../gone; $AX list > /dev/null", 0, ""),
    ],
)
def test_streams_that_fail_have_an_end_of_their_own(tmp_path: Path, line: str, code: int, err: str) -> None:
    done = shell(line, tmp_path)
    assert (done.returncode, done.stderr) == (code, err)


def test_an_interrupt_inside_the_exporter_is_an_interrupt(tmp_path: Path) -> None:
    """The exporter turns whatever it can catch into errors of its own."""
    (tmp_path / "slow.py").write_text(
        "import time, torch\n"
        "class Net(torch.nn.Module):\n"
        "    def forward(self, x):\n"
        "        if torch.compiler.is_exporting():\n"
        "            open('ready', 'w').close()\n"
        "            time.sleep(20)\n"
        "        return x + 1\n"
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    command = [sys.executable, "-m", "attn_export", "slow.py:Net", "--input", "1x3", "--mutants", "none"]
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True, env=env) as process:
        deadline = time.monotonic() + 60
        while not (tmp_path / "ready").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.strip().splitlines()[-1] == "interrupted; nothing was written"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ready", "slow.py"]


def test_what_standard_error_cannot_take_is_dropped_and_standard_output_is_not() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb", buffering=0) as pipe:
        errors, output = ending._text(pipe.fileno(), ending._Stream), ending._text(pipe.fileno(), ending._Output)
        for _ in range(3):
            errors.write("warning: the machine is loaded\n")
            errors.flush()
        output.write("the result\n")
        with pytest.raises(ending.ClosedError):
            output.flush()
        output.flush()  # told once
