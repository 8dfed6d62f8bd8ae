"""The catalogue's pages: generated, current, and made without torch."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from attn_export.errors import LoadError, UnknownNameError
from attn_export.mechanisms import MECHANISMS
from attn_export.tools.pages import FOLDER, INDEX, Measured, from_sweep, kept, page, pages, texts

RUN = Measured(nodes=12, k=0.5, bound=4.0, p50_ms=0.25, machine="a machine")


def test_the_pages_are_current() -> None:
    expected = texts(kept())
    found = {p.relative_to(FOLDER).as_posix(): p.read_text(encoding="utf-8") for p in FOLDER.rglob("*.md")}
    again = "run: python -m attn_export.tools.pages"
    assert sorted(found) == sorted(expected), again
    stale = [path for path, text in expected.items() if found[path] != text]
    assert not stale, again


@pytest.mark.parametrize("name", list(MECHANISMS))
def test_a_page_tells_the_paper_the_formula_and_every_preset(name: str) -> None:
    text, spec = page(name), MECHANISMS[name]
    assert text.startswith(f"# {name}\n")
    assert spec.paper.title in text
    assert spec.paper.url in text
    assert "```text\n" in text
    for key in spec.configurations:
        assert f"| `{key}`" in text
    for dim in spec.dynamic:
        assert f"`{dim.name}` from {dim.least}" in text


def test_every_link_of_the_index_leads_to_a_page(tmp_path: Path) -> None:
    pages(tmp_path)
    text = (tmp_path / INDEX).read_text(encoding="utf-8")
    for name, place in MECHANISMS.places.items():
        if place.path is not None:
            assert f"]({place.family}/{name}.md)" in text
            assert (tmp_path / place.family / f"{name}.md").is_file()


def test_pages_of_entries_that_are_gone_are_removed(tmp_path: Path) -> None:
    pages(tmp_path)
    gone = tmp_path / "attention" / "gone.md"
    gone.write_text("old", encoding="utf-8")
    pages(tmp_path)
    assert not gone.exists()


def test_what_was_measured_is_shown_for_the_preset_it_was_measured_with() -> None:
    assert "Measured" not in page("se")
    text = page("se", {"se-test-fused": RUN, "eca-test": RUN})
    assert "| `test` | fused | 12 | 0.50 (4) | 0.25 ms | a machine |" in text
    assert text.count("a machine") == 1


def test_a_sweep_is_read_and_what_failed_is_left_out(tmp_path: Path) -> None:
    stages = [{"nodes": 12, "k": 0.5, "k_bound": 4.0, "latency_ms": None}]
    rows = [
        {"label": "se-test", "status": "passed", "result": {"stages": stages}},
        {"label": "eca-test", "status": "crashed", "result": None},
    ]
    file = tmp_path / "sweep.json"
    file.write_text(json.dumps({"environment": {"processor": "a machine"}, "rows": rows}), encoding="utf-8")
    assert from_sweep(file) == {"se-test": Measured(12, 0.5, 4.0, None, "a machine")}


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"environment": {}, "rows": [{}]}'])
def test_another_file_is_refused(tmp_path: Path, content: str) -> None:
    file = tmp_path / "sweep.json"
    file.write_text(content, encoding="utf-8")
    with pytest.raises(LoadError, match="no result"):
        from_sweep(file)


def test_an_unknown_entry_is_refused() -> None:
    with pytest.raises(UnknownNameError):
        page("no_such_entry")


def test_pages_need_no_torch() -> None:
    code = (
        "import sys; from attn_export.tools.pages import texts; assert texts();"
        "heavy = {'torch', 'onnx', 'onnxruntime', 'numpy'} & set(sys.modules); assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
