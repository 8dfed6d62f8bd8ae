"""E1 over entries of the catalogue, as the main job exports them: a few here, all of them in the sweep:

python -c "from attn_export.tools.compile_table import *; …"     see docs for the whole table
"""

from __future__ import annotations

import pytest

from attn_export.mechanisms import MECHANISMS
from attn_export.tools.compile_table import Row, compile_entry, markdown

#: Entry, and how many attention kernels float16 must show: as many as it has softmaxes that NVIDIA documents as fused.
FEW = {"axial_attention": 2, "se": 0}


@pytest.fixture(scope="module", params=[name for name in FEW if name in MECHANISMS])
def rows(request: pytest.FixtureRequest, rtx: None) -> tuple[str, dict[str, Row]]:
    return request.param, {row.precision: row for row in compile_entry(request.param)}


def test_the_table_names_only_entries_that_exist() -> None:
    assert set(FEW) <= set(MECHANISMS)


def test_an_entry_builds_in_both_precisions(rows: tuple[str, dict[str, Row]]) -> None:
    name, pair = rows
    assert [row.refusal for row in pair.values()] == ["", ""]
    assert {row.claim for row in pair.values()} == {"builds under TensorRT for RTX 1.7.1 (SM86), not run"}
    assert pair["fp16"].attention == FEW[name]
    assert pair["fp32"].attention == 0
    assert pair["fp16"].sha256 != pair["fp32"].sha256
    if FEW[name]:
        assert pair["fp16"].kernels < pair["fp32"].kernels


def test_the_page_says_what_was_refused() -> None:
    good = Row("a", "fp32", "builds under P 1 (SM86), not run", "", 1, 7, 0, 0, "0" * 64)
    bad = Row("a", "fp16", "", "P does not parse the graph: Col2Im 'fold'", 1, 0, 0, 2, "")
    page = markdown([good, bad])
    assert page.startswith("builds under P 1 (SM86), not run\n")
    assert "| `a` | 1 | 7 | refused | 0 | 0 | 2 |" in page
    assert "- `a` in fp16: P does not parse the graph: Col2Im 'fold'" in page
