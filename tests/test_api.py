"""The public API: what it exports, what importing it costs, and that its page runs."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import attn_export
from attn_export import errors

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "python-api.md").read_text(encoding="utf-8")


def test_the_exported_names_are_these() -> None:
    """A name that comes or goes is a decision, not an accident."""
    functions = {"assert_parity", "bench", "deploy", "diff", "fuse", "insert", "load", "read_bundle", "verify"}
    types = {"Dim", "MeasureOptions", "Progress", "TensorSpec"}
    own = {name for name, value in vars(errors).items() if isinstance(value, type) and name.endswith("Error")}
    assert set(attn_export.__all__) == {"__version__", *functions, *types, *own}
    assert list(attn_export.__all__) == ["__version__", *sorted(set(attn_export.__all__) - {"__version__"})]


@pytest.mark.parametrize("name", attn_export.__all__)
def test_every_name_is_there_and_documented(name: str) -> None:
    value = getattr(attn_export, name)
    assert name in dir(attn_export)
    assert isinstance(value, str) or value.__doc__


def test_type_checkers_see_the_names_that_are_found_at_run_time() -> None:
    tree = ast.parse((ROOT / "src/attn_export/__init__.py").read_text(encoding="utf-8"))
    seen = {
        alias.asname
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("attn_export")
        for alias in node.names
    }
    assert seen == set(attn_export.__all__) - {"__version__"}


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nope'"):
        attn_export.nope  # noqa: B018


def test_importing_costs_nothing() -> None:
    code = (
        "import sys, time\n"
        "before = set(sys.modules)\n"
        "began = time.process_time()\n"
        "import attn_export\n"
        "spent = time.process_time() - began\n"
        "new = set(sys.modules) - before\n"
        "assert new <= {'attn_export', '__future__'}, new\n"
        "print(spent)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 0.03


def test_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    blocks = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert len(blocks) >= 6
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": "page"}
    for block in blocks:
        exec(compile(block, "python-api.md", "exec"), names)
    said = capsys.readouterr()
    assert said.err == "", "the API prints nothing"
    assert "parity" in said.out, "a result prints itself"


def test_the_page_names_every_error() -> None:
    for name, value in vars(errors).items():
        if isinstance(value, type) and issubclass(value, errors.AttnExportError):
            assert f"{name}" in PAGE, name


def test_results_print_themselves_and_what_they_say_is_text() -> None:
    from attn_export.deploy_tests.latency.comparison import summarise
    from attn_export.deploy_tests.parity.compare import OutputComparison, Parity

    comparison = summarise([(0.10, 0.001), (0.11, -0.001), (0.10, 0.0)])
    assert str(comparison) == comparison.summary()
    assert "the candidate is slower" in str(comparison)
    hostile = OutputComparison("<script>", "y", 1.0, 2.0, 0.5, 90.0, 1.0)
    page = Parity("a runtime", 4.0, (hostile,))._repr_html_()
    assert page.startswith("<p>")
    assert "<script>" not in page
    assert "&lt;script&gt;" in page
