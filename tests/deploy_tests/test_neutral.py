"""Neutral code names no runtime: what a backend can do is asked of the backend, so that a new one needs no change."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ("mechanisms", "reparam", "export", "deploy_tests", "pipeline", "tools", "src/attn_export")
RUNTIME = re.compile(r"onnx[ _]?runtime|tensor[ _]?rt|EngineRun|litert|executorch|openvino|ncnn", re.IGNORECASE)
#: Where a name may stand all the same, and why.
MAY_NAME = {
    "deploy_tests/backends/": "the backends themselves, and the one default",
    "export/converters/": "a converter is for the runtime whose name it bears",
    "export/lint/": "a file of rules is about the target whose name it bears",
    "export/onnx/ends.py": "where files with operators of that runtime's own come from",
    "export/onnx/narrow.py": "export knows no backend, and asks the one that is always there whether a file loads",
    "export/onnx/probe.py": "the same, at which sizes",
    "export/quantise/watch.py": "export knows no backend, and looks at tensors in a float32 run of its own",
    "export/precision/float16_policy.py": "export knows no backend, and observes ranges in a float32 run of its own",
    "src/attn_export/bundle/format.py": "file formats bear the names of the runtimes that read them",
    "tools/cli.py": "help and examples",
    "tools/options.py": "help and examples",
    "tools/commands/doctor.py": "the one runtime that reports home unless it is told not to",
    "tools/ending.py": "which extra brings which package, as pyproject.toml has it",
}
#: Documentation names products where they explain something; a program that branches on a name does not hide there.
DOCUMENTATION = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def named(path: Path) -> Iterator[str]:
    """Names of runtimes in the code of a file: in its identifiers, imports and texts, but for docstrings."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    documented = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, DOCUMENTATION) and node.body and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if id(node) in documented:
            continue
        for _, value in ast.iter_fields(node):
            for text in value if isinstance(value, list) else [value]:
                if isinstance(text, str) and RUNTIME.search(text):
                    yield f"line {getattr(node, 'lineno', '?')}: {text[:60]}"


def files() -> list[Path]:
    return sorted(
        path
        for folder in FOLDERS
        for path in (ROOT / folder).rglob("*.py")
        if not any(part.is_symlink() for part in path.parents)
    )


def test_neutral_code_names_no_runtime() -> None:
    found = {
        str(path.relative_to(ROOT)): lines
        for path in files()
        if not str(path.relative_to(ROOT)).startswith(tuple(MAY_NAME)) and (lines := list(named(path)))
    }
    assert found == {}


@pytest.mark.parametrize("place", MAY_NAME)
def test_an_exception_is_one(place: str) -> None:
    inside = [path for path in files() if str(path.relative_to(ROOT)).startswith(place)]
    assert any(list(named(path)) for path in inside), f"{place} names no runtime, so it needs no exception"


@pytest.mark.parametrize(
    "text",
    ["import onnxruntime", "x = 'tensorrt_rtx'", "EngineRun()", "f'on {y} TensorRT'", "'''doc'''\nx = 'ONNX Runtime'"],
)
def test_a_name_is_seen(text: str, tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text(text)
    assert list(named(tmp_path / "a.py"))
