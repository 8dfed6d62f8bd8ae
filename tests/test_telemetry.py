"""Nothing phones home, and nothing of a run is left in the home folder; and this test can see what would be."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from attn_export.tools.commands.doctor import telemetry_off
from tests.deploy_tests.test_conformance import write
from tests.tools.run import run

SOURCE = Path(__file__).parents[1] / "src"


def child(tmp_path: Path, *command: str, **more: str) -> subprocess.CompletedProcess[str]:
    """Run Python in an empty home folder, with nothing of this environment that says it is a machine for CI."""
    for name in ("home", "tmp", "work"):
        (tmp_path / name).mkdir(exist_ok=True)
    kept = {key: value for key in ("PATH", "LD_LIBRARY_PATH", "LANG") if (value := os.environ.get(key))}
    places = {"HOME": str(tmp_path / "home"), "TMPDIR": str(tmp_path / "tmp"), "PYTHONDONTWRITEBYTECODE": "1"}
    env = {**kept, **places, "PYTHONPATH": str(SOURCE), **more}
    return subprocess.run(
        [sys.executable, *command], cwd=tmp_path / "work", env=env, capture_output=True, text=True, check=False
    )


def left(tmp_path: Path, name: str = "home") -> list[str]:
    return sorted(path.relative_to(tmp_path / name).as_posix() for path in (tmp_path / name).rglob("*"))


def test_onnx_runtime_writes_home_unless_it_is_told_not_to(tmp_path: Path) -> None:
    """What the next tests would see."""
    code = "import onnxruntime; print(onnxruntime.__version__)"
    version = child(tmp_path, "-c", code).stdout.strip()
    if tuple(map(int, version.split(".")[:2])) < (1, 32):
        assert left(tmp_path) == []
        return
    assert any("onnxruntime" in name for name in left(tmp_path)), "it reports no more? then say so in docs/security.md"


@pytest.mark.parametrize(
    "module", ["attn_export", "attn_export.deploy_tests.backends.onnxruntime", "attn_export.bundle"]
)
def test_whatever_of_ours_comes_first_says_so(module: str, tmp_path: Path) -> None:
    done = child(tmp_path, "-c", f"import {module}, onnxruntime")
    assert done.returncode == 0, done.stderr
    assert left(tmp_path) == []


COMMANDS = {
    "doctor": ["doctor"],
    "targets": ["targets"],
    "verify": ["verify", "bundle"],
    "bench": ["bench", "bundle", "--duration", "0", "--iterations", "1", "--profile"],
    "bench, of two": ["bench", "bundle", "bundle", "--duration", "0", "--iterations", "1", "--processes", "2"],
    "lint": ["lint", "bundle", "--target", "ort_mobile"],
    "fuse": ["fuse", "bundle/model.onnx", "-o", "fused.onnx"],
    "main job": ["se", "--preset", "test", "--duration", "0", "--iterations", "1"],
}


#: Where results of the main job are kept, and the folders around that.
AROUND = (".cache", ".cache/attn-export", ".cache/attn-export/results")


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_no_command_leaves_a_file_in_the_home_folder(name: str, tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    write(tmp_path / "work" / "bundle")
    done = child(tmp_path, "-m", "attn_export", *COMMANDS[name])
    assert done.returncode in (0, 1, 5), done.stderr
    kept = left(tmp_path) if name == "main job" else []
    assert left(tmp_path) == [entry for entry in kept if entry in AROUND or entry.startswith(f"{AROUND[-1]}/")]
    # Torch's compiler makes an empty folder of its own where temporary files go.
    assert [entry for entry in left(tmp_path, "tmp") if not entry.startswith("torchinductor_")] == []


@pytest.mark.parametrize(
    ("value", "off"), [(None, True), ("1", True), ("TRUE", True), ("0", False), ("", False), ("2", False)]
)
def test_doctor_says_what_holds_and_what_the_user_set_stands(value: str | None, off: bool, tmp_path: Path) -> None:
    done = child(tmp_path, "-m", "attn_export", "doctor", **({} if value is None else {"ORT_DISABLE_TELEMETRY": value}))
    wanted = f"off (ORT_DISABLE_TELEMETRY={value or 1})" if off else f"as you set it (ORT_DISABLE_TELEMETRY={value})"
    assert f"ONNX Runtime: {wanted}" in done.stdout


def test_doctor_says_it_to_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORT_DISABLE_TELEMETRY", "1")
    assert telemetry_off()
    assert json.loads(run("doctor", "--json").out)["telemetry"] is False
    monkeypatch.setenv("ORT_DISABLE_TELEMETRY", "0")
    assert run("doctor", "--json").json["telemetry"] is True
