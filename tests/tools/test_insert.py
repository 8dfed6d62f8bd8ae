"""``attn-export insert``: a network before and after, counted and timed; the user's file stays as it is."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from attn_export.deploy_tests.latency.comparison import Rules
from attn_export.tools.commands import insert
from tests.tools.run import run

NET = """
from torch import nn
def make():
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3, bias=False), nn.BatchNorm2d(8))
"""


@pytest.fixture
def net(tmp_path: Path) -> Path:
    (tmp_path / "net.py").write_text(NET, encoding="utf-8")
    return tmp_path / "net.py"


def test_it_says_what_the_mechanism_costs(net: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(net.parent)
    monkeypatch.setattr(insert, "Rules", partial(Rules, processes=2))
    said = run("insert", "net.py:make", "--input", "1x3x16x16", "--mechanism", "simam", "--after", "[02]", "--json")
    assert said.code in (0, 5), said.err  # 5: too noisy here for a ratio, which is printed with its control
    found = said.json
    assert [place["after"] for place in found["places"]] == ["0", "2"]
    assert found["places"][0]["shape"] == [1, 8, 14, 14]
    before, after = found["before"], found["after"]
    assert before["parameters"] == after["parameters"] == 3 * 8 * 9 + 8 + 8 * 8 * 9 + 16
    assert before["macs"] == after["macs"] == 14 * 14 * 8 * 27 + 12 * 12 * 8 * 72
    assert after["nodes"] > before["nodes"]
    assert found["latency"]["ratio"]["estimate"] > 1
    assert net.read_text(encoding="utf-8") == NET


def test_fused_or_not_it_prints_a_table(net: Path) -> None:
    words = ("--input", "1x3x16x16", "--mechanism", "se", "--after", "2", "--no-bench", "--fuse")
    said = run("insert", f"{net}:make", *words, "--mechanism-kwargs", '{"reduction": 4}')
    assert said.code == 0, said.err
    assert "SqueezeExcite(channels=8, reduction=4)" in said.out
    table = {line.split("  ")[0]: line.split() for line in said.out.splitlines()}
    assert int(table["parameters"][2]) - int(table["parameters"][1]) == 2 * 8 * 2
    assert "fused regions" in said.out
    assert "latency: not measured" in said.out


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("--mechanism", "ecca", "--after", "0"), 2, "did you mean 'eca'"),
        (("--mechanism", "eca", "--after", "conv*"), 2, "matches no module"),
        (("--mechanism", "eca", "--after", "0", "--mechanism-kwargs", "x"), 2, "--mechanism-kwargs: expected a JSON"),
    ],
)
def test_what_cannot_be_is_said(net: Path, words: tuple[str, ...], code: int, says: str) -> None:
    said = run("insert", f"{net}:make", "--input", "1x3x16x16", *words)
    assert (said.code, said.out) == (code, "")
    assert says in said.err
