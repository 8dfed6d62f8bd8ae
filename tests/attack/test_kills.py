"""Runs that are killed leave no half bundle and lose no old one; and the test that says so can fail."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from attn_export.process import children
from benchmarks.attack import kills, originals
from benchmarks.attack.runs import GRAPH

pytestmark = pytest.mark.slow

#: The command line with one thing broken.
BROKEN = """
import sys
from attn_export import bundle
from attn_export.tools import entry
{harm}
sys.argv = ["attn-export", *sys.argv[1:]]
entry.main()
"""
IN_PLACE = """
import contextlib
@contextlib.contextmanager
def writing(target):
    target.mkdir(exist_ok=True)
    for file in target.iterdir():
        file.unlink()
    yield target
bundle.writing = writing
"""
NO_SWEEP = """
from attn_export.process import folders
folders.sweep = lambda *_: None
"""
UNWATCHED = """
from attn_export.process import supervisor
supervisor.supervise = lambda work, say: work()
"""


ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def honest() -> Path:
    return originals.folder()


def test_kills_and_straits() -> None:
    """Three kills, one by each signal, and every strait; in a process of its own, whose mounts end with it."""
    done = children.run(
        "benchmarks.attack.kills", "--count", "3", "--job", "graph", timeout=400, env={"PYTHONPATH": str(ROOT)}
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert "3 kills" in done.stdout
    assert "| disk full |" in done.stdout


@pytest.mark.parametrize(
    ("harm", "number", "fault"),
    [
        (IN_PLACE, "SIGKILL", "the bundle is not whole|older bundle is gone"),
        (NO_SWEEP, "SIGKILL", "left over after the next run: tmp/attn-export-"),
        (UNWATCHED, "SIGTERM", "exit code -15, wanted 143"),
    ],
)
def test_a_broken_build_is_seen(
    harm: str, number: str, fault: str, honest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "program.py"
    program.write_text(BROKEN.format(harm=harm))
    monkeypatch.setattr(kills, "PATIENCE", 15.0)
    # After the fourth stage the bundle is being written, or has just been.
    kill = kills.Kill(GRAPH, kills.signal.Signals[number], "parent", True, None, lines=3)
    found = kills.carry_out(kill, 10.0, honest, tmp_path / "place", (sys.executable, str(program)))
    assert any(word in "; ".join(found.faults) for word in fault.split("|")), found
