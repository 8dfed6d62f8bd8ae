"""The catalogue's pages: generated, current, and made without torch."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from attn_export.errors import LoadError, UnknownNameError
from attn_export.mechanisms import MECHANISMS
from attn_export.pipeline.sweep.job import Plan, SweepJob
from attn_export.pipeline.sweep.sweeping import Settings, sweep
from attn_export.tools.measured import CAVEAT, CatalogueFigures, Timing, from_sweep, keep, kept, merged, model_of
from benchmarks import catalogue_latency
from benchmarks.pages.catalogue import FOLDER, INDEX, page, pages, texts
from tests.tools.run import run

TIMING = Timing(0.25, 0.24, 0.27, 100, "a machine")
RUN = CatalogueFigures(nodes=12, k=0.5, bound=4.0, model="abc", latency=TIMING)


def test_the_pages_are_current() -> None:
    expected = texts(kept())
    found = {p.relative_to(FOLDER).as_posix(): p.read_text(encoding="utf-8") for p in FOLDER.rglob("*.md")}
    again = "run: python -m benchmarks.pages.catalogue"
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
        assert f"`{dim.name}` from {dim.min}" in text


def test_every_link_of_the_index_leads_to_a_page(tmp_path: Path) -> None:
    pages(tmp_path)
    text = (tmp_path / INDEX).read_text(encoding="utf-8")
    for name, place in MECHANISMS.entries.items():
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
    assert "| `test` | fused | 12 | 0.50 of 4 | 0.25 ms [0.24, 0.27] | a machine |" in text
    assert text.count("a machine") == 1
    assert CAVEAT in text
    assert "| `test` | plain = fused | 12 |" in page("se", {"se-test": RUN, "se-test-fused": RUN})


def test_a_latency_stays_with_the_model_it_was_taken_of() -> None:
    same, other = CatalogueFigures(12, 0.5, 4.0, "abc"), CatalogueFigures(13, 0.5, 4.0, "abd")
    assert merged({"a": RUN, "b": RUN, "c": RUN}, {"a": same, "b": other}) == {"a": RUN, "b": other, "c": RUN}


def test_one_file_gives_pages_and_terminal_the_same_figures(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    keep({"se-readme": RUN, "se-test": CatalogueFigures(3, 1.0, 4.0)}, tmp_path / "measured.json")
    assert kept(tmp_path / "measured.json") == {"se-readme": RUN, "se-test": CatalogueFigures(3, 1.0, 4.0)}
    monkeypatch.setattr("attn_export.tools.commands.catalogue.kept", lambda: {"se-readme": RUN})
    said = run("show", "se").out
    assert "measured readme, plain: 12 nodes, k = 0.50 of 4, 0.25 ms [0.24, 0.27]" in said
    assert f"on a machine. {CAVEAT}" in said
    assert run("show", "se", "--json").json["measured"][0]["latency"] == "0.25 ms [0.24, 0.27]"


def test_every_entry_is_measured_at_both_sizes() -> None:
    there = kept()
    for name in MECHANISMS:
        for preset in ("test", "readme"):
            assert f"{name}-{preset}" in there, f"{name}: measure it, see tools/measured.py"


def test_from_sweep_to_pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole flow on one entry: sweep, time, time again (nothing left to do), read."""
    rows = sweep(Plan((SweepJob("acnet", "test", fuse=True),)), Settings(folder=tmp_path, workers=1, mutants="none"))
    assert rows[0].ok
    assert from_sweep(tmp_path)["acnet-test-fused"].latency is None
    monkeypatch.setattr(sys, "argv", ["catalogue_latency", str(tmp_path)])
    catalogue_latency.main()
    found = from_sweep(tmp_path)["acnet-test-fused"]
    assert found.nodes == 2
    assert found.latency is not None
    assert 0 < found.latency.low <= found.latency.p50 <= found.latency.high
    assert "one thread" in found.latency.machine
    assert catalogue_latency.measure(tmp_path, "x") == 0
    manifest = tmp_path / "acnet-test-fused" / "manifest.json"
    manifest.write_text(manifest.read_text().replace(model_of(tmp_path, "acnet-test-fused"), "0" * 64))
    assert from_sweep(tmp_path)["acnet-test-fused"].latency is None, "a latency of another model is not shown"
    shutil.rmtree(tmp_path / "acnet-test-fused")
    assert from_sweep(tmp_path)["acnet-test-fused"].latency is None


def test_a_sweep_is_read_and_what_failed_is_left_out(tmp_path: Path) -> None:
    stages = [{"nodes": 12, "normalized_error": 0.5, "normalized_limit": 4.0, "latency_ms": None}]
    rows = [
        {"label": "se-test", "status": "passed", "result": {"stages": stages}},
        {"label": "eca-test", "status": "crashed", "result": None},
    ]
    (tmp_path / "sweep.json").write_text(json.dumps({"rows": rows}), encoding="utf-8")
    assert from_sweep(tmp_path) == {"se-test": CatalogueFigures(12, 0.5, 4.0)}


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"environment": {}, "rows": [{}]}'])
def test_another_file_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "sweep.json").write_text(content, encoding="utf-8")
    with pytest.raises(LoadError, match="not a result"):
        from_sweep(tmp_path)


def test_an_unknown_entry_is_refused() -> None:
    with pytest.raises(UnknownNameError):
        page("no_such_entry")


def test_pages_need_no_torch() -> None:
    code = (
        "import sys; from benchmarks.pages.catalogue import texts; assert texts();"
        "heavy = {'torch', 'onnx', 'onnxruntime', 'numpy'} & set(sys.modules); assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
