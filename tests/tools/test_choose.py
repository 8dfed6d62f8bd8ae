"""``attn-export choose``: what fits comes cheapest first, what is not known is said, and the shipped files hold."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from attn_export.errors import UnknownNameError, UsageError
from attn_export.mechanisms import MECHANISMS
from attn_export.tools import choosing
from attn_export.tools.choosing import Question, answer
from attn_export.tools.common_shapes import SHAPES, ShapeRow, append, read, write
from benchmarks import common_shapes as measuring
from tests.tools.run import run

MAP = "2x256x14x14"


def row(entry: str, high: float, shape: str = MAP) -> ShapeRow:
    return ShapeRow(entry, shape, "Call()", "", 10, 1000, 4000, 3, high * 0.9, high * 0.8, high, 1.0, "m", 1.0, "d")


ROWS = {
    one.key: one
    for one in (
        row("danet", 0.6),
        row("criss_cross", 0.3),
        row("eca", 0.02),
        row("lka", 1.4),
        row("self_attention", 1.0, "1x196x384"),
        row("se", 0.5, "2x64x56x56"),
        ShapeRow("repmlp", MAP, why_not="it cannot"),
    )
}
TARGETS = {
    "danet": {"qnn:sm8650:float16": "right", "qnn:sm8650:int8": "wrong"},
    "criss_cross": {"qnn:sm8650:int8": "wrong"},
    "lka": {"ethos-u": "compiled"},
}


@pytest.fixture(autouse=True)
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choosing, "facts", lambda: {name: {"targets": found} for name, found in TARGETS.items()})


def names(**asked: Any) -> list[str]:
    return [one.row.entry for one in answer(Question(shape=MAP, **asked), ROWS).choices]


def test_what_fits_comes_cheapest_first() -> None:
    assert names() == ["eca", "criss_cross", "danet", "lka"]
    assert names(task="segmentation") == ["criss_cross", "danet", "lka"]
    assert names(max_ratio=0.6) == ["eca", "criss_cross", "danet"]
    assert names(max_ratio=0.55) == ["eca", "criss_cross"], "the upper end of the interval counts"
    assert names(budget="free") == ["eca"]
    assert names(budget="light") == ["eca", "criss_cross", "danet"]
    assert names(families=("conv",)) == []
    assert names(target="qnn") == ["danet"]
    assert names(target="qnn:sm8650:int8") == []
    assert names(target="ethos-u") == ["lka"], "where nothing runs, compiling is all that there is to know"


def test_what_is_not_known_is_said_and_not_judged() -> None:
    found = answer(Question(shape=MAP), ROWS)
    assert {"se", "cbam", "resnet"} <= set(found.not_measured), "se has a row at another map alone"
    assert "self_attention" not in found.not_measured
    assert found.left_out == {"take no tensor of this kind": 1, "cannot take this shape": 1}
    assert "eca" in answer(Question(shape=MAP, target="qnn"), ROWS).not_measured, "no row of the target"
    assert answer(Question(), {}).choices == ()


def test_what_cannot_be_asked_is_refused() -> None:
    with pytest.raises(UsageError, match="expected 2x64x56x56"):
        Question(shape="2x2").checked()
    for more in ({"task": "segmentatoin"}, {"budget": "lite"}, {"families": ("atention",)}, {"target": "qmn"}):
        with pytest.raises(UnknownNameError, match="did you mean"):
            Question(**more).checked()  # type: ignore[arg-type]


def test_rows_outlive_a_run_and_the_later_holds(tmp_path: Any) -> None:
    file = tmp_path / "rows.jsonl"
    assert read(file) == {}
    for one in (row("se", 1.0), row("eca", 1.0), row("se", 2.0)):
        append(one, file)
    assert read(file)["se", MAP].high == 2.0
    write(read(file).values(), file)
    assert [key[0] for key in read(file)] == ["eca", "se"]


def test_the_shipped_files_are_of_this_catalogue() -> None:
    rows = read()
    assert len(rows) > 50
    for (entry, shape), one in rows.items():
        assert entry in MECHANISMS
        assert shape in SHAPES
        assert bool(one.why_not) == (one.ratio is None), entry
        if one.ratio is not None:
            assert one.low is not None and one.high is not None  # noqa: PT018
            assert 0 < one.low <= one.ratio <= one.high, entry
            assert one.machine, entry
            assert one.date, entry


def test_the_command_prints_what_the_files_say() -> None:
    shown = run("choose", "--budget", "free")
    assert shown.code == 0, shown.err
    assert "fit" in shown.out
    found = run("choose", "--budget", "free", "--json").json
    assert [one["budget"] for one in found["choices"]] == ["free"] * len(found["choices"])
    highs = [one["high"] for one in found["choices"]]
    assert highs == sorted(highs)
    assert f"{len(highs)} fit" in shown.out
    assert run("choose", "--shape", "1x1").code == 2


def test_it_answers_without_torch_or_numpy() -> None:
    code = (
        "import sys; from attn_export.tools.choosing import Question, answer; answer(Question());"
        " sys.exit(str({'torch', 'onnx', 'numpy'} & set(sys.modules) or ''))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.strip() == ""


def test_what_an_entry_cannot_take_becomes_the_reason_of_its_row(tmp_path: Any) -> None:
    found = measuring.measured("gfnet_filter", "1x195x384", tmp_path, lambda _: pytest.fail("nothing to compare"))
    assert "195 tokens are no square map" in found.why_not
    assert found.ratio is None


def test_every_map_is_measured_at_both_sizes_and_what_takes_none_is_left_out() -> None:
    pairs = measuring.wanted([], [])
    assert len(set(pairs)) == len(pairs)
    assert {("eca", "2x64x56x56"), ("eca", MAP), ("xca", "1x196x384"), ("resnet", "1x3x224x224")} <= set(pairs)
    assert "rope" not in {name for name, _ in pairs}
