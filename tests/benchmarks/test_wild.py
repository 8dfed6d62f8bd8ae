"""The page of public networks: what the data renders to, and no row that was not run."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from attn_export.cache import place
from benchmarks.wild import row as rows
from benchmarks.wild.__main__ import ABOUT, PAGE, PUBLIC, ROWS, rendered, wanted
from benchmarks.wild.attempt import Done, message, run
from benchmarks.wild.network import Network
from benchmarks.wild.page import page
from benchmarks.wild.row import Row

TAKEN = Row("timm", "a", ("x:1x3x8x8",), "2026-01-02", 0, 9.6, 3.0, nodes=(9, 5), norms=4, left=0, own_left=2, k=0.5)
REFUSED = Row("timm", "b", (), "2026-01-03", 3, 4.0, message="expected <a>, got b")


def test_the_page_is_what_the_data_renders_to() -> None:
    assert PAGE.read_text(encoding="utf-8") == rendered(ROWS, ABOUT), "run: python -m benchmarks.wild"


def test_every_row_is_a_network_that_can_be_run_again() -> None:
    known = {one.key for one in PUBLIC}
    assert len(PUBLIC) == len(known)
    assert {key for key in rows.read(ROWS) if key[0] != "files"} <= known


def test_a_network_is_typed_as_a_file_with_a_factory() -> None:
    network = Network("timm", "a", "import timm\nreturn timm.create_model('a')", ("x:1x3x8x8",))
    assert network.source == "def make():\n    import timm\n    return timm.create_model('a')\n"
    assert network.words == ["net.py:make", "--input", "x:1x3x8x8", "--fuse", "--no-bench"]


def test_the_page_tells_what_was_taken_and_why_others_were_not() -> None:
    text = page([REFUSED, TAKEN], {"timm": {"timm": "1.0"}})
    assert "| timm | 1 of 2 | 0 of 1 | 2026-01-02 to 2026-01-03 | timm 1.0 |" in text
    assert "| `a` 1x3x8x8 | 9 → 5 | 4 → 0 (2) | 0.50 | 10 (3) |" in text
    assert "- `b` (exit 3): expected &lt;a>, got b" in text


def test_rows_survive_the_file_and_the_later_try_holds(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    for row in (REFUSED, TAKEN, Row("timm", "b", (), "2026-01-04", 0, 1.0)):
        rows.append(file, row)
    rows.write(file, rows.read(file).values())
    assert [(row.name, row.exit) for row in rows.read(file).values()] == [("a", 0), ("b", 0)]
    assert rows.read(file)[TAKEN.key] == TAKEN


def test_what_is_known_is_not_run_again_unless_it_is_named() -> None:
    networks = [Network("timm", "a"), Network("timm", "b"), Network("torchvision", "c")]
    assert [one.name for one in wanted(networks, (), [("timm", "a")])] == ["b", "c"]
    assert [one.name for one in wanted(networks, ("timm",), [("timm", "a")])] == ["a", "b"]


@pytest.mark.parametrize(
    ("done", "said"),
    [
        (Done(3, 1.0, '{"error": "no file", "exit_code": 3}', "warning: x"), "no file"),
        (Done(1, 1.0, "", "Traceback\nValueError: y\n"), "ValueError: y"),
        (Done(0, 1.0, '{"stages": []}', "warning: x"), ""),
    ],
)
def test_the_last_word_is_the_error(done: Done, said: str) -> None:
    assert message(done) == said


def test_no_row_is_answered_from_a_cache(tmp_path: Path) -> None:
    child = f"import os; print(os.environ[{place.FOLDER!r}])"
    assert run([sys.executable, "-c", child], tmp_path, 60.0).out.strip() == place.OFF


def test_a_row_over_its_limit_is_stopped_with_its_children(tmp_path: Path) -> None:
    child = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import time; time.sleep(60)'])"
    done = run([sys.executable, "-c", child], tmp_path, 1.0)
    assert done.code is None
    assert done.seconds < 20
