"""The main job with --fp16: what varies from input to input is measured, also where sizes are fixed."""

from __future__ import annotations

from pathlib import Path

from attn_export import bundle
from attn_export.export.cases.plan import AGAIN
from tests.tools.run import run

NETS = """
from torch import Tensor, nn

class Plain(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * x.tanh()
"""


QUICK = ("--fp16", "--no-bench", "--mutants", "none", "-q")


def test_a_network_that_hardly_looks_at_its_input_is_undecided_in_float16(tmp_path: Path) -> None:
    done = run("mobileone", "--preset", "test", *QUICK, "-o", tmp_path / "out")
    assert done.code == 5, done.err
    assert "prove nothing about float16: only 6" in done.err
    assert "keeps 7.2 dB (at least 20 dB); use trained weights" in done.err
    assert not (tmp_path / "out").exists()


def test_a_network_of_fixed_sizes_is_drawn_more_inputs(tmp_path: Path) -> None:
    nets = tmp_path / "nets.py"
    nets.write_text(NETS)
    done = run(f"{nets}:Plain", "--input", "x:2x30", *QUICK, "-o", tmp_path / "plain")
    assert done.code == 0, done.err
    whole = bundle.read(tmp_path / "plain")
    assert {f"seed {n}" for n in range(1, AGAIN + 1)} < {case.name for case in whole.cases}
    kept = bundle.report(whole)["runs"][0]["parity"]["varying"]
    assert kept["ok"]
    assert [len(one["images"]) for one in kept["outputs"]] == [AGAIN + 1]
    done = run("verify", tmp_path / "plain", "--snr", 60)
    assert (done.code, "(limit 60 dB)" in done.out) == (0, True)
    assert run("verify", tmp_path / "plain", "--snr", 200).code == 1
