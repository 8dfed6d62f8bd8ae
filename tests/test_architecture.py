"""The shape of the house: which folder may import which, and what the device side must do without."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("mechanisms", "reparam", "export", "deploy_tests", "pipeline", "tools")
#: Files and packages beside the folders, which every one of them may import.
GROUND = {"errors", "bundle", "cache", "registry", "process", "types", "untrusted", "__version__"}
MAY_IMPORT = {
    "mechanisms": GROUND | {"mechanisms"},
    "reparam": GROUND | {"reparam"},
    "export": GROUND | {"mechanisms", "reparam", "export"},
    "deploy_tests": GROUND | {"deploy_tests"},
    "pipeline": GROUND | {"mechanisms", "reparam", "export", "deploy_tests", "pipeline"},
    "tools": GROUND | set(FOLDERS),
}
#: Inside a folder, what each room (a package, or a module that stands alone) may know of its neighbours.
ROOMS = {
    "reparam/types": set[str](),
    "reparam/result": set[str](),
    "reparam/ir": {"types"},
    "reparam/algebra": {"types", "ir"},
    "reparam/evaluate": {"types", "ir", "adapters"},
    "reparam/planning": {"types", "ir", "algebra"},
    "reparam/proof": {"types", "ir", "result", "algebra", "planning", "evaluate"},
    "reparam/adapters": {"types", "ir"},
    "reparam/account": {"types", "ir", "result", "algebra", "planning", "proof"},
    "reparam/core": {"types", "ir", "result", "account", "planning", "proof"},
    "reparam/submodules": {"result", "proof"},
    "reparam/fuse_onnx": {"types", "result", "core", "adapters", "planning", "proof"},
    "reparam/fuse_torch": {"types", "result", "core", "submodules", "adapters", "planning", "proof"},
    "export/arrays": set[str](),
    "export/subject": {"arrays"},
    "export/construct": {"parts"},
    "export/parts": set[str](),
    "export/copies": set[str](),
    "export/lazy": {"outputs"},
    "export/insertion": {"construct", "copies", "outputs", "parts"},
    "export/training": {"parts"},
    "export/refused_files": set[str](),
    "export/input_shapes": set[str](),
    "export/source": {"subject"},
    "export/binding": set[str](),
    "export/code_lines": set[str](),
    "export/higher_order": set[str](),
    "export/outputs": {"binding", "code_lines", "higher_order"},
    "export/asking": {"binding", "outputs"},
    "export/chosen": {"training", "copies", "outputs"},
    "export/float64_run": {"copies", "parts"},
    "export/unwrapped": {"parts"},
    "export/widened": {"copies", "outputs", "parts"},
    "export/rounded_runs": {"copies", "graph_module", "outputs"},
    "export/float32_runs": {"graph_module", "outputs", "rounded_runs"},
    "export/determinism": {"copies", "graph"},
    "export/cases": {"arrays", "copies", "graph", "outputs", "rounded_runs", "subject"},
    "export/promise": {"graph", "onnx", "outputs", "subject"},
    "export/reference": {
        "arrays",
        "copies",
        "cases",
        "determinism",
        "exact_run",
        "float32_runs",
        "outputs",
        "rounded_runs",
        "subject",
    },
    "export/graph": set[str](),
    "export/graph_module": {"arrays", "graph", "onnx", "outputs"},
    "export/exact_run": {"arrays", "float64_run", "outputs", "subject", "traced"},
    "export/onnx": {"arrays", "copies", "binding", "chosen", "code_lines", "graph", "outputs", "subject"},
    "export/in_memory": {"arrays", "copies", "binding", "chosen", "subject", "unwrapped", "weights", "widened"},
    "export/exporting": {"onnx", "subject"},
    "export/traced": {"arrays", "copies", "float64_run", "graph", "onnx", "outputs", "subject"},
    "export/weights": {"construct"},
    "export/sources": {
        "arrays",
        "asking",
        "binding",
        "chosen",
        "construct",
        "graph",
        "graph_module",
        "input_shapes",
        "lazy",
        "onnx",
        "parts",
        "precision",
        "quantise",
        "refused_files",
        "source",
        "subject",
        "training",
        "unwrapped",
        "weights",
        "widened",
    },
    "export/precision": {"graph", "onnx"},
    "export/torch_program": {"binding", "copies", "outputs", "subject"},
    "export/quantise": {"graph", "onnx", "precision"},
    "export/converters": {"onnx", "precision", "quantise", "torch_program"},
    "export/audit": {"arrays", "graph", "parts"},
    "export/mutants": {"graph"},
    "export/lint": {"graph"},
    "deploy_tests/backend": set[str](),
    "deploy_tests/refusal": set[str](),
    "deploy_tests/compiling": {"backend", "refusal"},
    "deploy_tests/backends": {"backend", "compiling", "refusal"},
    "deploy_tests/shapes": {"backends"},
    "deploy_tests/open_bundle": {"backend", "backends", "shapes"},
    "deploy_tests/parity": {"backend", "open_bundle"},
    "deploy_tests/latency": {"backend", "backends", "shapes", "open_bundle", "machine"},
    "deploy_tests/machine": {"backends", "store"},
    "deploy_tests/store": set[str](),
    "deploy_tests/history": {"store"},
    "deploy_tests/data": {"backend", "backends"},
    "deploy_tests/identity": {"backends"},
    "deploy_tests/measurement": {"backend", "backends", "shapes", "open_bundle", "latency", "machine", "identity"},
    "deploy_tests/ranking": {"backend", "backends", "open_bundle", "latency", "machine", "parity"},
    "deploy_tests/tuning": {"backend", "backends", "open_bundle", "latency", "machine", "parity"},
    "deploy_tests/conformance": {"backend", "backends", "open_bundle", "parity", "latency", "machine"},
    "pipeline/divergence": {"options", "stage", "stages"},
    "pipeline/report": set[str](),
}
#: The one runtime of the device side whose own bindings for Python need PyTorch.
NEEDS_TORCH = "deploy_tests/backends/executorch/"
HOST_ONLY = {"torch", "onnx", "onnx_ir", "onnxscript", "onnxsim", "safetensors", "jaxtyping"}


def sources(room: str) -> list[Path]:
    alone = (ROOT / room).with_suffix(".py")
    return [alone] if alone.is_file() else sorted((ROOT / room).rglob("*.py"))


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


@pytest.mark.parametrize("folder", ["export", "deploy_tests"])
def test_no_room_is_forgotten(folder: str) -> None:
    inside = (ROOT / folder).iterdir()
    found = {path.stem for path in inside if path.suffix == ".py" or (path / "__init__.py").is_file()}
    assert found - {"__init__"} == {room.partition("/")[2] for room in ROOMS if room.startswith(f"{folder}/")}


@pytest.mark.parametrize("room", ROOMS)
def test_rooms_know_only_those_below_them(room: str) -> None:
    folder, own = room.split("/")
    assert sources(room)
    for path in sources(room):
        for name in imports(path):
            parts = name.split(".")
            if parts[:2] == ["attn_export", folder]:
                assert parts[2] in ROOMS[room] | {own}, f"{path.relative_to(ROOT)} imports {name}"


def test_every_room_of_the_fuser_has_its_row() -> None:
    found = {
        path.stem for path in (ROOT / "reparam").iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()
    }
    assert found - {"__init__"} == {room.split("/")[1] for room in ROOMS if room.startswith("reparam/")}


def module_name(path: Path) -> str:
    parts = path.with_suffix("").parts
    return ".".join(("attn_export", *parts[: -1 if parts[-1] == "__init__" else None]))


def only_for_types(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def imported_when_run(tree: ast.AST) -> Iterator[str]:
    """Yield what a module imports, inside its functions too; what is imported for type checkers only is left out."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif not only_for_types(node):
            yield from imported_when_run(node)


def module_graph(files: dict[str, str]) -> dict[str, set[str]]:
    """Map each module to the modules among ``files`` (name → source) that it imports."""
    graph: dict[str, set[str]] = {}
    for name, source in files.items():
        graph[name] = set()
        for wanted in imported_when_run(ast.parse(source)):
            found = wanted if wanted in files else wanted.rpartition(".")[0]
            if found in files and found != name:
                graph[name].add(found)
    return graph


def reachable(graph: dict[str, set[str]], start: str) -> set[str]:
    seen, todo = set[str](), [start]
    while todo:
        new = graph[todo.pop()] - seen
        seen |= new
        todo += new
    return seen


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Return the strongly connected components of more than one module."""
    reach = {name: reachable(graph, name) for name in graph}
    found = {tuple(sorted(n for n in reach[name] if name in reach[n])) for name in graph if name in reach[name]}
    return [list(circle) for circle in sorted(found)]


def test_no_modules_import_each_other_in_a_circle() -> None:
    package = ROOT / "src" / "attn_export"
    own = [path for path in package.rglob("*.py") if not set(path.relative_to(package).parts) & set(FOLDERS)]
    paths = {module_name(path.relative_to(package)): path for path in own}
    paths |= {module_name(path.relative_to(ROOT)): path for folder in FOLDERS for path in sources(folder)}
    assert len(paths) > 300
    found = circles(module_graph({name: path.read_text(encoding="utf-8") for name, path in paths.items()}))
    assert not found, "\n".join(" ↔ ".join(circle) for circle in found)


def test_a_circle_is_seen_through_functions_and_not_through_types() -> None:
    files = {
        "p.a": "from p import b",
        "p.b": "def f() -> None:\n    from p.c import x",
        "p.c": "import p.a",
        "p.d": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from p import e",
        "p.e": "from p.d import y",
    }
    assert circles(module_graph(files)) == [["p.a", "p.b", "p.c"]]


def test_the_device_side_imports_neither_torch_nor_onnx() -> None:
    own = ROOT / "src/attn_export"
    rooms = (path for room in ("bundle", "cache", "process", "untrusted") for path in (own / room).rglob("*.py"))
    # The API is for both sides, and imports torch and onnx when a function of the host side is called.
    files = [*sources("deploy_tests"), *(path for path in own.glob("*.py") if path.stem != "api"), *rooms]
    assert len(files) > 30
    for path in files:
        used = {name.partition(".")[0] for name in imports(path)} & HOST_ONLY
        if str(path.relative_to(ROOT)).startswith(NEEDS_TORCH):
            used -= {"torch"}
        assert not used, f"{path.relative_to(ROOT)} imports {used}"


@pytest.mark.parametrize("folder", FOLDERS)
def test_the_import_package_reaches_the_folder(folder: str) -> None:
    link = ROOT / "src" / "attn_export" / folder
    assert link.is_dir(), "src/attn_export holds links: on Windows, `git config core.symlinks true` and check out again"


def test_listing_and_help_import_nothing_heavy() -> None:
    code = (
        "import sys; sys.argv = ['attn-export', *sys.argv[1:]]\n"
        "from attn_export.tools.cli import main\n"
        "try:\n    main()\nexcept SystemExit as e:\n    assert not e.code, e.code\n"
        "heavy = {'torch', 'onnx', 'onnxruntime', 'numpy'} & set(sys.modules)\n"
        "assert not heavy - ({'onnxruntime', 'numpy'} if 'doctor' in sys.argv else set()), heavy"
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


def test_the_device_sides_tests_can_be_imported_where_torch_is_missing() -> None:
    places = [ROOT / "tests" / name for name in ("deploy_tests", "process")]
    places += [path for pattern in ("test_bundle*.py", "test_untrusted*.py") for path in (ROOT / "tests").glob(pattern)]
    hidden = ["-p", "tests.without_torch", "-n", "0", "--collect-only", "-q"]
    command = [sys.executable, "-m", "pytest", *hidden, *map(str, places)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:]


def packages() -> list[str]:
    own = ROOT / "src/attn_export"
    top = [*(ROOT / folder for folder in (*FOLDERS, "benchmarks")), own]
    found = {init.parent for folder in top for init in folder.rglob("__init__.py")}
    links = {own / folder for folder in FOLDERS}
    return sorted(str(path.relative_to(ROOT)) for path in found if not links & {path, *path.parents})


@pytest.mark.parametrize("package", packages())
def test_the_map_names_every_folder(package: str) -> None:
    page = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    assert f"`{package}`" in page, "docs/architecture.md: give it a line"


def test_the_map_names_no_folder_that_is_gone() -> None:
    page = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    table = page[page.index("| folder |") : page.index("## Where a new thing goes")]
    named = {
        name for row in table.splitlines() for name in re.findall(r"`([^`]+)`", row.partition("|")[2].partition("|")[0])
    }
    assert named == set(packages())


def test_every_file_that_is_no_code_is_in_the_wheel() -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    table = text[text.index("[tool.setuptools.package-data]") :].split("\n\n")[0]
    declared = {
        package.removeprefix("attn_export").lstrip("."): json.loads(patterns)
        for package, patterns in re.findall(r'^"([\w.]+)" = (\[.*\])$', table, re.MULTILINE)
    }
    places = {folder: ROOT / folder for folder in FOLDERS}
    own = ROOT / "src" / "attn_export"
    for package, patterns in declared.items():
        folder = places.get(package.partition(".")[0], own)
        inner = package.partition(".")[2] if folder is not own else package
        for pattern in patterns:
            assert list(folder.joinpath(*filter(None, inner.split("."))).glob(pattern)), f"{package}: {pattern}"
    known = {
        f"{package.replace('.', '/')}/{pattern}".lstrip("/") for package, found in declared.items() for pattern in found
    }
    for folder in (*places.values(), own):
        for path in folder.rglob("*"):
            if path.is_file() and path.suffix not in (".py", ".pyc") and not any(p.is_symlink() for p in path.parents):
                name = path.relative_to(own if folder is own else ROOT).as_posix()
                assert any(PurePosixPath(name).match(pattern) for pattern in known), f"{name} is not in the wheel"
