"""mypy over a copy of the backend, mutants beside it, against the stubs of one official version."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import attn_export.errors
from tests.deploy_tests.tensorrt.wheels import cache

PACKAGE = "attn_export.deploy_tests.backends.tensorrt"
_CONFIG = """[mypy]
strict = true
python_version = 3.11
warn_unused_ignores = false
[mypy-tensorrt.*,tensorrt_rtx.*,onnxruntime.*]
ignore_missing_imports = true
"""
_ERROR = re.compile(r"^(?P<file>[^:]+):(?P<line>\d+): error: (?P<text>.*)$", re.MULTILINE)


@dataclass(frozen=True)
class Error:
    """One error of mypy; ``module`` is the file's stem."""

    module: str
    line: int
    text: str


def source() -> Path:
    """The package's source folder, wherever it is imported from."""
    return Path(attn_export.errors.__file__).parent


def backend_files() -> dict[str, str]:
    folder = source() / "deploy_tests" / "backends" / "tensorrt"
    return {path.stem: path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.py"))}


def check(stubs: Path, work: Path, mutants: Mapping[str, str], extra: Mapping[str, str] | None = None) -> list[Error]:
    """Errors of mypy in the backend, in each mutant (a whole module by name) and in extra modules."""
    root = work / "src" / "attn_export"
    ignore = shutil.ignore_patterns("__pycache__")
    for name in ("__init__.py", "errors.py", "registry.py", "types.py", "py.typed"):
        root.mkdir(parents=True, exist_ok=True)
        shutil.copy(source() / name, root / name)
    for name in ("bundle", "process", "untrusted", "deploy_tests"):
        shutil.copytree(source() / name, root / name, ignore=ignore, dirs_exist_ok=True)
    folder = root / "deploy_tests" / "backends" / "tensorrt"
    for group, texts in (("mutants", mutants), ("extra", extra or {})):
        (folder / group).mkdir()
        (folder / group / "__init__.py").touch()
        for name, text in texts.items():
            (folder / group / f"{name}.py").write_text(text, encoding="utf-8")
    config = work / "mypy.ini"
    config.write_text(_CONFIG)
    command = [sys.executable, "-m", "mypy", "--config-file", str(config), "--cache-dir", str(cache() / "mypy")]
    done = subprocess.run(
        [*command, "--no-error-summary", "--hide-error-context", "-p", PACKAGE],
        capture_output=True,
        text=True,
        check=False,
        cwd=work,
        env={"PATH": "/usr/bin:/bin", "MYPYPATH": f"{stubs}:{work / 'src'}"},
    )
    # Exit 2 is mypy giving up, as on a syntax error in a stub: then nothing was checked and every mutant would pass.
    assert done.returncode in (0, 1), done.stdout + done.stderr
    assert not done.stderr, done.stderr
    errors = [Error(Path(m["file"]).stem, int(m["line"]), m["text"]) for m in _ERROR.finditer(done.stdout)]
    assert bool(errors) == (done.returncode == 1), done.stdout
    return errors
