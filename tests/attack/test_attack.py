"""Hostile input of every kind ends well, and the bench that says so can see each way of ending badly."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from benchmarks.attack import campaign, inside, originals
from benchmarks.attack.attempt import Attempt, AttemptOutcome
from benchmarks.attack.kinds import KINDS, lay_out
from benchmarks.attack.pool import Pool, Task

COUNT, BY_CLI = 150, 1


@pytest.fixture(scope="module")
def honest() -> Path:
    return originals.folder()


@pytest.mark.fuzz
@pytest.mark.parametrize("kind", KINDS)
def test_hostile_input_ends_well(kind: str, honest: Path) -> None:
    tally = campaign.run(kind, campaign.CampaignPlan(COUNT, BY_CLI, seed=0), honest)
    assert tally.tried == COUNT + BY_CLI
    assert tally.clean == tally.tried, f"\n{campaign.causes([tally])}"


@pytest.mark.parametrize("kind", KINDS)
def test_an_attempt_is_made_again_from_its_seed(kind: str, honest: Path, tmp_path: Path) -> None:
    for seed in range(20):
        first, second = (lay_out(kind, seed, tmp_path / name, honest) for name in ("a", "b"))
        assert first == second
        for path in (tmp_path / "a").rglob("*"):
            twin = tmp_path / "b" / path.relative_to(tmp_path / "a")
            assert path.is_symlink() == twin.is_symlink()
            if path.is_file() and not path.is_symlink() and path.stat().st_size < 1 << 20:
                assert path.read_bytes() == twin.read_bytes(), f"{kind} {seed}: {path.name}"


def honest_words(work: Path, honest: Path, rng: Random) -> Attempt:
    """An honest command, beside whatever a test does on top."""
    del work, honest, rng
    return Attempt(("list", "--family", "rep"), "nothing")


def outcome(
    make: object, honest: Path, monkeypatch: pytest.MonkeyPatch, harm: object = None, limit: float = 10
) -> AttemptOutcome:
    """Run one attempt in a worker in which ``harm`` is done where ``list`` would list."""
    inside.prepare(("attn_export.tools.commands.catalogue",))
    if harm is not None:
        monkeypatch.setattr("attn_export.tools.commands.catalogue.list_", lambda *_, **__: harm())  # type: ignore[operator]
    (found,) = Pool({"kind": make}, honest, limit, size=1).run([Task("kind", 1, "in")])  # type: ignore[dict-item]
    return found


def raises() -> None:
    raise KeyError("x")


def dies() -> None:
    os.abort()


def hangs() -> None:
    time.sleep(60)


def eats() -> None:
    bytearray(inside.MEMORY + (200 << 20))


def executes() -> None:
    Path("EXECUTED").touch()


def loses() -> None:
    Path("../keep/thesis.tex").unlink()


def changes() -> None:
    Path("../keep/repository/.git/config").write_text("[evil]")


def leaves() -> None:
    Path(os.environ["TMPDIR"], "tmp1234").mkdir()


def leaves_at_home() -> None:
    Path("~/.cache").expanduser().mkdir()


def escapes() -> None:
    sys.stdout.write("\x1b[31mred")


def exits() -> None:
    raise SystemExit(9)


def is_silent() -> None:
    raise SystemExit(3)


def is_wordy() -> None:
    sys.stderr.write("error: once more\n" * 100)
    raise SystemExit(3)


def mounts_stand() -> None:
    """Everything but the box is read-only, where this user may have that."""
    with contextlib.suppress(OSError):
        Path("/tmp/attack-was-here").touch()
        os.kill(os.getpid(), 9)


@pytest.mark.parametrize(
    ("harm", "flaw"),
    [
        (raises, "traceback"),
        (dies, "death"),
        (hangs, "hang"),
        (eats, "memory"),
        (executes, "executed"),
        (loses, "lost"),
        (changes, "lost"),
        (leaves, "left"),
        (leaves_at_home, "left"),
        (escapes, "escape"),
        (exits, "exit"),
        (is_silent, "wordy"),
        (is_wordy, "wordy"),
    ],
)
def test_every_bad_end_is_seen(harm: object, flaw: str, honest: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = outcome(honest_words, honest, monkeypatch, harm, limit=2 if harm is hangs else 30)
    assert flaw in found.flaws, found


def test_a_good_end_is_seen(honest: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert outcome(honest_words, honest, monkeypatch).clean


def test_an_attempt_can_write_nowhere_else(honest: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if subprocess.run(["unshare", "-m", "mount", "-t", "tmpfs", "none", "/mnt"], check=False).returncode:
        pytest.skip("this user may not have mounts of its own here")
    found = outcome(honest_words, honest, monkeypatch, mounts_stand)
    with contextlib.suppress(FileNotFoundError):
        Path("/tmp/attack-was-here").unlink()
        pytest.fail("a worker wrote to /tmp")
    assert found.clean


def test_a_fault_of_the_bench_is_none_of_the_product(honest: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> Attempt:
        raise ValueError("no input")

    with pytest.raises(RuntimeError, match="the bench itself broke"):
        outcome(broken, honest, monkeypatch)


def test_a_campaign_goes_on_where_it_was(honest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Task] = []

    def run(self: Pool, tasks: Iterator[Task]) -> Iterator[AttemptOutcome]:
        for task in tasks:
            seen.append(task)
            yield AttemptOutcome(task.kind, task.seed, task.mode, ("traceback",) if task.seed == 3 else (), 0, "")

    monkeypatch.setattr(Pool, "run", run)
    monkeypatch.setattr(campaign, "CHUNK", 5)
    first = campaign.run("kwargs", campaign.CampaignPlan(10, 1, 0, keep=tmp_path), honest)
    again = campaign.run("kwargs", campaign.CampaignPlan(15, 1, 0, keep=tmp_path), honest)
    assert [task.seed for task in seen if task.mode == "in"] == list(range(15))
    assert (first.tried, again.tried, again.clean, again.flaws["traceback"]) == (11, 16, 15, 1)
    assert "--only 3" in (tmp_path / "kwargs-3" / "README").read_text()
    assert (tmp_path / "kwargs-3" / "work" / "net.py").is_file()
