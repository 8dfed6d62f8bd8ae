"""E1 over the catalogue, as the main job exports it: a few entries are built here, the table in docs/ holds them all.

python -m benchmarks.pages.compile_table        builds what the table does not know yet
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from attn_export.errors import BackendMissingError, ExportError, GateError, UnknownNameError
from attn_export.mechanisms import MECHANISMS
from benchmarks.pages import compile_table
from benchmarks.pages import tensorrt as compile_page
from benchmarks.pages.compile_table import DOCS, PAGE, CompileRow, compile_entry, gate, load
from benchmarks.pages.unfused_attention import NOT_FUSED

#: Built anew here: forms of attention that are fused, and one without any; what comes is what the table says.
FEW = ("axial_attention", "botnet_mhsa", "non_local", "se")
#: Where our rules and the parser disagree over the catalogue, by name.
DISAGREEMENTS: list[str] = []


@pytest.fixture(scope="module")
def table() -> dict[str, list[CompileRow]]:
    return load()


@pytest.mark.parametrize("name", FEW)
def test_an_entry_builds_in_both_precisions(name: str, rtx: None, table: dict[str, list[CompileRow]]) -> None:
    full, half = compile_entry(name)
    gate([full, half])
    assert {full.claim, half.claim} == {"builds under TensorRT for RTX 1.7.1 (SM86), not run"}
    assert half.sha256 != full.sha256
    for row, kept in zip((full, half), table[name], strict=True):
        assert (row.attention, row.kernels, row.softmaxes) == (kept.attention, kept.kernels, kept.softmaxes), (
            f"{name} has changed: python -m benchmarks.pages.compile_table {name}"
        )


def test_the_table_holds_every_entry_in_both_precisions_and_each_builds(table: dict[str, list[CompileRow]]) -> None:
    missing = sorted(set(MECHANISMS) - set(table))
    assert missing == sorted(compile_page.NOT_TRIED), f"python -m benchmarks.pages.compile_table {' '.join(missing)}"
    assert not set(table) - set(MECHANISMS)
    assert all([row.precision for row in rows] == ["fp32", "fp16"] for rows in table.values())
    gate(row for rows in table.values() for row in rows)


def test_the_page_is_what_the_rows_give(table: dict[str, list[CompileRow]]) -> None:
    rows = [row for name in sorted(table) for row in table[name]]
    assert compile_page.markdown(rows) == (DOCS / PAGE).read_text(encoding="utf-8")
    assert compile_page.disagreements(rows) == DISAGREEMENTS


def test_whatever_is_not_fused_exists_and_has_a_softmax(table: dict[str, list[CompileRow]]) -> None:
    assert all(reason for reason in NOT_FUSED.values())
    assert [name for name in NOT_FUSED if table[name][1].softmaxes == 0] == []


GOOD = CompileRow("gqa", "fp16", "builds under P 1 (SM86), not run", softmaxes=1, layers=8, kernels=7, attention=1)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"attention": 0}, "gqa in fp16 has 0 fused attentions, wanted 1"),
        ({"name": "gc"}, "gc in fp16 has 1 fused attentions, wanted 0"),
        ({"precision": "fp32"}, "gqa in fp32 has 1 fused attentions, wanted 0"),
        ({"refusal": "P does not parse it", "claim": ""}, "gqa in fp16 is refused: P does not parse it"),
    ],
)
def test_the_gate_closes(change: dict[str, str], says: str) -> None:
    gate([GOOD])
    with pytest.raises(GateError, match=says):
        gate([GOOD, replace(GOOD, **change)])


def test_the_page_says_what_was_refused_and_where_the_sources_disagree() -> None:
    bad = replace(GOOD, claim="", refusal="P does not parse the graph: Col2Im 'fold'")
    full = replace(GOOD, precision="fp32", attention=0, refused_by_rules=("antialias it",))
    page = compile_page.markdown([full, bad])
    assert "**builds under P 1 (SM86), not run**: 1 graphs of 1 entries; 1 refused." in page
    assert "| `gqa` | 1 | 8 | refused | 7 | refused | 0 | 1 | 0 |" in page
    assert "- `gqa` in fp16: P does not parse the graph: Col2Im 'fold'" in page
    assert compile_page.disagreements([full, bad]) == [
        "- `gqa` in fp32: only the rules refuse: antialias it",
        "- `gqa` in fp16: only the parser refuses",
    ]


def test_the_table_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []

    def entry(name: str) -> list[CompileRow]:
        done.append(name)
        if name == "eca":
            raise (
                BackendMissingError("TensorRT for RTX is not installed")
                if len(done) == 1
                else ExportError("it does not")
            )
        return [CompileRow(name, precision, "claim") for precision in compile_table.PRECISIONS]

    monkeypatch.setattr("attn_export.mechanisms.MECHANISMS", {"eca": None, "se": None})
    monkeypatch.setattr(compile_table, "compile_entry", entry)
    with pytest.raises(BackendMissingError):
        compile_table.main([], tmp_path)
    compile_table.main(["se"], tmp_path)
    with pytest.raises(GateError, match="eca in fp32 is refused: it does not"):
        compile_table.main([], tmp_path)
    assert done == ["eca", "se", "eca"]
    assert [row.refusal for row in load(tmp_path)["eca"]] == ["it does not", "it does not"]
    with pytest.raises(UnknownNameError, match="did you mean 'eca'"):
        compile_table.main(["se", "ecaa"], tmp_path)
    assert done == ["eca", "se", "eca"]
