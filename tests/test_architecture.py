"""The shape of the house: which folder may import which, and what the device side must do without."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("mechanisms", "reparam", "export", "deploy_tests", "pipeline", "tools")
#: Files and packages beside the folders, which every one of them may import.
GROUND = {"errors", "bundle", "registry", "process", "untrusted", "__version__"}
MAY_IMPORT = {
    "mechanisms": GROUND | {"mechanisms"},
    "reparam": GROUND | {"reparam"},
    "export": GROUND | {"mechanisms", "reparam", "export"},
    "deploy_tests": GROUND | {"deploy_tests"},
    "pipeline": GROUND | {"mechanisms", "reparam", "export", "deploy_tests", "pipeline"},
    "tools": GROUND | set(FOLDERS),
}
#: Inside a folder, what each room may know of its neighbours.
ROOMS = {
    "reparam/algebra": {"ir"},
    "reparam/planning": {"ir", "algebra"},
    "reparam/proof": {"ir", "result", "algebra", "planning", "evaluate"},
    "reparam/evaluate": {"ir", "algebra"},
    "reparam/adapters": {"ir", "algebra", "evaluate"},
    "pipeline/divergence": set[str](),
    "pipeline/report": set[str](),
    "pipeline/lint": set[str](),
}
HOST_ONLY = {"torch", "onnx", "onnx_ir", "onnxscript", "onnxsim", "safetensors", "jaxtyping"}


def sources(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("folder", FOLDERS)
def test_imports_point_one_way(folder: str) -> None:
    assert sources(folder)
    for path in sources(folder):
        for name in imports(path):
            parts = name.split(".")
            if parts[0] == "attn_export" and len(parts) > 1:
                assert parts[1] in MAY_IMPORT[folder], f"{path.relative_to(ROOT)} imports {name}"


@pytest.mark.parametrize("room", ROOMS)
def test_rooms_know_only_those_below_them(room: str) -> None:
    folder, own = room.split("/")
    assert sources(room)
    for path in sources(room):
        for name in imports(path):
            parts = name.split(".")
            if parts[:2] == ["attn_export", folder]:
                assert parts[2] in ROOMS[room] | {own}, f"{path.relative_to(ROOT)} imports {name}"


def test_the_device_side_imports_neither_torch_nor_onnx() -> None:
    own = ROOT / "src/attn_export"
    rooms = (path for room in ("bundle", "process", "untrusted") for path in (own / room).rglob("*.py"))
    files = [*sources("deploy_tests"), *own.glob("*.py"), *rooms]
    assert len(files) > 30
    for path in files:
        used = {name.partition(".")[0] for name in imports(path)} & HOST_ONLY
        assert not used, f"{path.relative_to(ROOT)} imports {used}"


@pytest.mark.parametrize("folder", FOLDERS)
def test_the_import_package_reaches_the_folder(folder: str) -> None:
    link = ROOT / "src" / "attn_export" / folder
    assert link.is_dir(), "src/attn_export holds links: on Windows, `git config core.symlinks true` and check out again"


def test_listing_and_help_import_no_torch() -> None:
    code = (
        "import sys; sys.argv = ['attn-export', *sys.argv[1:]]\n"
        "from attn_export.tools.cli import main\n"
        "try:\n    main()\nexcept SystemExit as e:\n    assert not e.code, e.code\n"
        "heavy = {'torch', 'onnx', 'onnxruntime'} & set(sys.modules)\n"
        "assert not heavy - ({'onnxruntime'} if 'doctor' in sys.argv else set()), heavy"
    )
    for arguments in (["--help"], ["list"], ["list", "--json"], ["show", "se"], ["show", "se", "--json"], ["doctor"]):
        done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip()


def test_every_package_is_in_the_wheel_and_says_what_it_is_for() -> None:
    for folder in FOLDERS:
        for init in (ROOT / folder).rglob("__init__.py"):
            assert ast.get_docstring(ast.parse(init.read_text(encoding="utf-8"))), init
        for inner in (ROOT / folder).rglob("*.py"):
            assert (inner.parent / "__init__.py").is_file(), f"{inner.parent} is no package, so the wheel lacks it"
