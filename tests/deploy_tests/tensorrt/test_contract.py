"""E0: every call the backend makes exists, with these parameters, in NVIDIA's official wheels.

The wheels are downloaded, imported over empty stand-ins for NVIDIA's libraries, and their docstring signatures become
type stubs; mypy checks the backend against each version. Mutants are the test of that test.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.deploy_tests.tensorrt import fake_trt, mypy_run, pyi, stub_libraries
from tests.deploy_tests.tensorrt.mypy_run import Error
from tests.deploy_tests.tensorrt.wheels import BINDINGS, RUNTIMES, unpacked

pytestmark = pytest.mark.slow

EVERYWHERE = frozenset(BINDINGS)
SINCE_11 = frozenset({"11.4.0.106", "rtx"})


@dataclass(frozen=True)
class Mutant:
    """A call that is wrong, planted in a module of the backend, and the versions in which it is wrong."""

    module: str
    before: str
    after: str
    wrong_in: frozenset[str]


_CONFIGURE = "    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED\n"
_DESERIALIZE = "    context = engine.create_execution_context()\n"
MUTANTS = {
    "execute_v4": Mutant("run", "execute_async_v3(", "execute_async_v4(", EVERYWHERE),
    "fp16_flag": Mutant("build", "set_flag(trt.BuilderFlag.TF32)", "set_flag(trt.BuilderFlag.FP16)", SINCE_11),
    "no_stream": Mutant("run", "execute_async_v3(self.stream.address)", "execute_async_v3()", EVERYWHERE),
    "calibrator": Mutant("build", _CONFIGURE, _CONFIGURE + "    config.int8_calibrator\n", SINCE_11),
    "explicit_batch": Mutant("build", "Flag.STRONGLY_TYPED", "Flag.EXPLICIT_BATCH", SINCE_11),
    "path_keyword": Mutant("build", "parse_from_file(str(", "parse_from_file(path=str(", EVERYWHERE),
    "scalar_shape": Mutant("run", "set_input_shape(name, value.shape)", "set_input_shape(name, 3)", EVERYWHERE),
    "memory_size_v2": Mutant(
        "run", _DESERIALIZE, _DESERIALIZE + "    engine.device_memory_size_v2\n", frozenset({"10.0.1"})
    ),
}
#: The fake engine of the run half is held to the same stubs, by ``@override``.
FAKE_BEFORE, FAKE_AFTER = "def execute_async_v3(", "def execute_async_v4("
#: Attributes of ours that a member of the bindings happens to share its name with, on objects that are not theirs.
OURS = frozenset({"shape", *dir(list)})


def planted(mutant: Mutant) -> tuple[str, int]:
    """The mutated module, and the line of the fault."""
    text = mypy_run.backend_files()[mutant.module]
    assert text.count(mutant.before) == 1, f"{mutant.before!r} is not exactly once in {mutant.module}.py"
    start = text.index(mutant.before)
    changed = text.replace(mutant.before, mutant.after)
    differs = next(i for i in range(start, len(changed)) if changed[i : i + 1] != text[i : i + 1])
    return changed, changed[:differs].count("\n") + 1


def renamed(members: frozenset[str]) -> Iterator[tuple[str, str, int]]:
    """Mutants made by rule: each member of the bindings a module uses, with a wrong name (name, text, line)."""
    touching = {module: text for module, text in mypy_run.backend_files().items() if "    import tensorrt" in text}
    for module, text in touching.items():
        seen = set(OURS)
        lines = text.splitlines(keepends=True)
        for node in ast.walk(ast.parse(text)):
            if not isinstance(node, ast.Attribute) or node.attr not in members - seen:
                continue
            seen.add(node.attr)
            row, column = node.end_lineno, node.end_col_offset
            assert row is not None
            assert column is not None
            line = lines[row - 1].encode()
            wrong = (line[:column] + b"_x" + line[column:]).decode()
            text_x = "".join([*lines[: row - 1], wrong, *lines[row:]])
            yield f"{module}__{node.attr}", text_x, row


@pytest.fixture(scope="module", params=list(BINDINGS))
def contract(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str, Path]:
    """A version, what it declares about itself, and the folder of its stubs."""
    name = request.param
    work = tmp_path_factory.mktemp(f"contract-{name}")
    dump = stub_libraries.signatures(BINDINGS[name], work / "libraries")
    text = pyi.write(dump)
    ast.parse(text)
    stubs = work / "stubs"
    # The code says `tensorrt` where both products agree, and `tensorrt_rtx` where only that one has the call.
    own = "tensorrt_rtx" if name == "rtx" else "tensorrt"
    (stubs / own).mkdir(parents=True)
    (stubs / own / "__init__.pyi").write_text(text)
    if name == "rtx":
        (stubs / "tensorrt").mkdir()
        (stubs / "tensorrt" / "__init__.pyi").write_text("from tensorrt_rtx import *\n")
    return name, dump["version"], stubs


def test_backend_keeps_the_contract(contract: tuple[str, str, Path], tmp_path: Path) -> None:
    name, version, stubs = contract
    assert version == BINDINGS[name].version
    lines: dict[str, int] = {}
    texts: dict[str, str] = {}
    for label, mutant in MUTANTS.items():
        texts[label], lines[label] = planted(mutant)
    stub = next(path for path in stubs.glob("*/__init__.pyi") if path.stat().st_size > 10_000).read_text()
    by_rule = {label: (text, line) for label, text, line in renamed(members(stub))}
    if name != "rtx":  # what only the sibling has is checked against the sibling
        by_rule = {label: planted for label, planted in by_rule.items() if not label.startswith("target__")}
    fake = Path(fake_trt.__file__).read_text(encoding="utf-8")
    assert FAKE_BEFORE in fake
    extra = {"fake": fake, "fake_wrong": fake.replace(FAKE_BEFORE, FAKE_AFTER)}
    mutants = texts | {label: text for label, (text, _) in by_rule.items()}
    errors = mypy_run.check(stubs, tmp_path, mutants, extra)

    base = [error for error in errors if error.module not in mutants and error.module != "fake_wrong"]
    assert base == []
    assert any("execute_async_v4" in error.text for error in errors if error.module == "fake_wrong")
    caught = {error.module for error in errors if error.module in texts}
    assert caught == {label for label, mutant in MUTANTS.items() if name in mutant.wrong_in}
    assert all(at_line(errors, label, lines[label]) for label in caught)
    assert len(by_rule) > 50, sorted(by_rule)
    assert [label for label, (_, line) in by_rule.items() if not at_line(errors, label, line)] == []


def at_line(errors: list[Error], module: str, line: int) -> bool:
    """Whether a module has an error, and the first lies at the fault (a call may span a few lines)."""
    found = [error.line for error in errors if error.module == module]
    return bool(found) and abs(min(found) - line) <= 4


def members(stub: str) -> frozenset[str]:
    """Names of all classes and members that a stub declares, but for those that every object might have."""
    names = {node.name for node in ast.walk(ast.parse(stub)) if isinstance(node, ast.ClassDef | ast.FunctionDef)}
    names |= {
        node.target.id
        for node in ast.walk(ast.parse(stub))
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    }
    return frozenset(name for name in names if not name.startswith("__"))


def test_a_broken_stub_is_not_taken_for_a_clean_bill(tmp_path: Path) -> None:
    (tmp_path / "stubs" / "tensorrt").mkdir(parents=True)
    (tmp_path / "stubs" / "tensorrt" / "__init__.pyi").write_text("def f(a = ..., b): ...\n")
    with pytest.raises(AssertionError, match="syntax"):
        mypy_run.check(tmp_path / "stubs", tmp_path / "work", {})


@pytest.mark.parametrize("version", RUNTIMES)
def test_real_cuda_runtime_has_every_function_and_says_why_there_is_no_gpu(
    version: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from attn_export.deploy_tests.backends.tensorrt import cuda

    (library,) = unpacked(RUNTIMES[version]).rglob("libcudart.so.*")
    monkeypatch.setenv("ATTN_EXPORT_CUDART", str(library))
    runtime = cuda.load()  # looks every function of SIGNATURES up
    assert runtime is not None
    assert runtime.versions()[0].split(".")[0] == version
    if why := cuda.missing():
        assert why.startswith("no CUDA driver (cudaError 35): CUDA driver version is insufficient")
