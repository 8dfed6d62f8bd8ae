"""A real scheduler and a real worker with TLS: a sweep's jobs go there, and what is left out there is said here."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from attn_export.process import children
from tests.edge import needs

pytestmark = pytest.mark.edge
needs("distributed", "psutil")

if sys.version_info < (3, 11):
    pytest.importorskip("tomli")

MATRIX = """
subjects = ["se"]
targets = ["onnxruntime"]
devices = [{devices}]
[bench]
warmup = 0
iterations = 1
duration = 0
"""


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, ...]]:
    """What the command line needs for a cluster that is there."""
    from benchmarks.farm.cluster import running

    folder = tmp_path_factory.mktemp("cluster")
    with running(folder, names=("a",)) as cluster:
        cluster.connect().close()
        tls = ("--tls-ca", "ca.pem", "--tls-cert", "farm.pem", "--tls-key", "farm.key")
        yield ("--scheduler", cluster.address, *(str(folder / word) if "." in word else word for word in tls))


def sweep(folder: Path, devices: str, *words: str) -> subprocess.CompletedProcess[str]:
    (folder / "m.toml").write_text(MATRIX.format(devices=devices))
    asked = ("sweep", "--matrix", str(folder / "m.toml"), "--mutants", "none", "-o", str(folder / "out"))
    return children.run("attn_export", *asked, *words, timeout=300)


def test_a_bundle_is_made_and_measured_there_and_lies_here(tmp_path: Path, words: tuple[str, ...]) -> None:
    done = sweep(tmp_path, '"rack-a"', *words)
    assert done.returncode == 0, done.stderr
    rows = {row["label"]: row for row in json.loads((tmp_path / "out/sweep.json").read_text())["rows"]}
    assert {row["status"] for row in rows.values()} == {"passed"}
    assert all(row["where"] for row in rows.values())
    measured = rows["se-test@onnxruntime@rack-a"]["result"]
    assert measured["bundle"] == str(tmp_path / "out/se-test")
    verified = children.run("attn_export", "verify", measured["bundle"], "--expect", measured["digest"])
    assert verified.returncode == 0, verified.stderr
    assert "(unchanged)" in sweep(tmp_path, '"rack-a"', *words).stderr


def test_what_nobody_there_has_is_exit_4_and_plain_words_are_exit_3(tmp_path: Path, words: tuple[str, ...]) -> None:
    done = sweep(tmp_path, '"rack-a", "jetson"', *words)
    assert (done.returncode, done.stdout) == (4, "")
    assert "no worker offers device:jetson" in done.stderr
    assert not (tmp_path / "out").exists()
    plain = sweep(tmp_path, '"rack-a"', "--scheduler", words[1].replace("tls://", "tcp://"))
    assert plain.returncode == 3, plain.stderr
    assert "cannot reach the scheduler" in plain.stderr
