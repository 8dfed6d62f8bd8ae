"""The table against the originals: every row of the catalogue is in it, and verdicts follow the interval."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import pytest

from attn_export.deploy_tests.latency.comparison import LatencyComparison, summarise
from attn_export.errors import BackendError
from attn_export.mechanisms import MECHANISMS
from benchmarks import originals
from benchmarks.original_rows import LATER, ROWS, WITHOUT, Original
from benchmarks.originals_page import page, totals, verdict
from tests.mechanisms import rows_attention, rows_conv, rows_mlp, rows_rep


def test_every_entry_with_an_original_has_its_row_once() -> None:
    names = [row.name for row in ROWS]
    assert len(names) == len(set(names)) == 63
    assert len(names) + len(LATER) == 88
    assert not set(LATER) & set(names)
    assert {*names, *WITHOUT} <= set(MECHANISMS)
    with_vectors = {row.entry for rows in (rows_attention, rows_mlp, rows_conv, rows_rep) for row in rows.ROWS.values()}
    assert with_vectors - set(LATER) <= {*names, *WITHOUT, "window"}  # its vectors are parts of dat and swin


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_what_a_row_replaces_is_an_argument_of_ours(row: Original) -> None:
    assert set(row.ours) <= set(inspect.signature(MECHANISMS[row.name].build).parameters)
    assert "readme" in MECHANISMS[row.name].presets


def _contest(effect: float, control: float, spread: float = 0.002) -> LatencyComparison:
    steps = (-2, -1, 0, 1, 2)
    return summarise([(effect + spread * n, control + spread * n) for n in steps])


@pytest.mark.parametrize(
    ("name", "contest", "said"),
    [
        ("eca", _contest(-0.3, 0.0), "faster"),
        ("eca", _contest(0.3, 0.0), "slower"),
        ("eca", _contest(0.001, 0.0), "same"),
        ("eca", _contest(0.02, 0.0, spread=0.03), "same"),
        ("eca", _contest(-0.3, 0.2), "void"),
        ("se", _contest(-0.3, 0.0), "faster"),
        ("se", _contest(-0.02, 0.0), "faster, wanted ≤ 0.95"),
        ("outlook", _contest(-0.5, 0.0), "faster, wanted ≤ 0.5"),
        ("outlook", _contest(-0.9, 0.0), "faster"),
    ],
)
def test_the_verdict_follows_interval_control_and_wanted_figure(
    name: str, contest: LatencyComparison, said: str
) -> None:
    assert verdict(name, contest.to_dict("ours", "original")) == said


def _exam(name: str, **original: Any) -> dict[str, Any]:
    ours = {"fused": False, "nodes": 6, "rare": {}, "parity": True, "batch": True}
    return {
        "name": name,
        "family": "attention",
        "shapes": {"x": [2, 8, 7, 7]},
        "ours": ours,
        "original": original,
        "same": "same",
    }


BROKEN = _exam("external", runs=False, why="it | broke")
SOUND = _exam(
    "se",
    runs=True,
    exports=True,
    parity=True,
    batch=False,
    reference="fixed batch",
    nodes=9,
    deployed_nodes=8,
    rare={"Col2Im": 1},
)


def test_the_page_counts_rows_and_shows_each() -> None:
    assert "Of 2 originals examined, 1 run, 1 export with parity, and 0 are right" in totals([BROKEN, SOUND])
    assert "Left in their graphs: Col2Im in 1." in totals([BROKEN, SOUND])
    text = page(
        [BROKEN, SOUND],
        {"se": _contest(-0.3, 0.0).to_dict("ours", "original")},
        {"commit": "d75848e4", "machine": "a machine"},
    )
    assert text.count("| `se` |") == 2
    assert "it \\| broke" in text
    assert "1 faster, 0 same, 0 slower, 0 void" in text
    assert "does not export: external." in text


def test_measuring_goes_on_past_a_row_that_breaks_and_keeps_what_has_not_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("se", "eca", "external"):
        (tmp_path / name).mkdir()
    for name in ("se", "eca"):
        for file in (originals.OURS, originals.ORIGINAL):
            (tmp_path / name / file).write_bytes(b"graph")
    played: list[str] = []

    def compete(ours: Path, *_: object, **__: object) -> LatencyComparison:
        played.append(ours.parent.name)
        if ours.parent.name == "eca":
            raise BackendError("no")
        return _contest(0.0, 0.0)

    monkeypatch.setattr(originals, "compare_latency", compete)
    for _ in range(2):
        originals.measure(["eca", "se", "external"], tmp_path, originals.RULES, again=False)
    assert played == ["eca", "se", "eca"]
    (tmp_path / "se" / originals.OURS).write_bytes(b"another")
    originals.measure(["se"], tmp_path, originals.RULES, again=False)
    assert played[-1] == "se"
    assert json.loads((tmp_path / "se" / originals.SPEED).read_text())["verdict"] == "no difference shown"
