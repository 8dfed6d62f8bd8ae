"""A fold that is wrong makes the main command exit 1, by the certificate and by the parity gate alone."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from attn_export.pipeline import stages
from attn_export.reparam import ir
from attn_export.reparam.adapters.onnx.read import OnnxReader
from attn_export.reparam.adapters.onnx.write import Writer
from attn_export.reparam.proof import certify
from tests.tools.run import run

pytestmark = pytest.mark.slow

Break = Callable[[pytest.MonkeyPatch], None]


def batch_norm(patch: pytest.MonkeyPatch, *, mean: bool, epsilon: bool) -> None:
    def op(self: OnnxReader, node: Any, at: Any) -> ir.Op:
        gamma, beta, average, variance = (self._const(node, n) for n in range(1, 5))
        assert gamma is not None
        assert beta is not None
        assert average is not None
        assert variance is not None
        factor = gamma / np.sqrt(variance + (at["epsilon"] if epsilon else 0.0))
        return ir.Affine(factor, beta - (average if mean else 0.0) * factor, axis=1)

    patch.setattr(OnnxReader, "_op_batchnormalization", op)


def forget_running_mean(patch: pytest.MonkeyPatch) -> None:
    batch_norm(patch, mean=False, epsilon=True)


def forget_epsilon(patch: pytest.MonkeyPatch) -> None:
    batch_norm(patch, mean=True, epsilon=False)


def drop_identity(patch: pytest.MonkeyPatch) -> None:
    """The identity branch is the one that is no convolution: the last of the sum."""
    add = OnnxReader._op_add

    def op(self: OnnxReader, node: Any, at: Any) -> ir.Op | None:
        made = add(self, node, at)
        return ir.Sum((1.0, 0.0)) if isinstance(made, ir.Sum) else made

    patch.setattr(OnnxReader, "_op_add", op)
    patch.setattr(OnnxReader, "_op_sum", lambda self, node, at: ir.Sum((1.0,) * (len(node.input) - 1) + (0.0,)))


def swap_two_kernels(patch: pytest.MonkeyPatch) -> None:
    tensor = Writer._tensor

    def swapped(self: Writer, array: Any, node: Any, what: str) -> str:
        return tensor(self, array[[1, 0, *range(2, len(array))]] if array.ndim == 4 else array, node, what)

    patch.setattr(Writer, "_tensor", swapped)


BREAKS = [forget_running_mean, forget_epsilon, drop_identity, swap_two_kernels]
COMMAND = ("repvgg", "--preset", "test", "--fuse", "--no-bench")


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("broken", BREAKS)
def test_the_certificate_sees_it(broken: Break, monkeypatch: pytest.MonkeyPatch) -> None:
    broken(monkeypatch)
    done = run(*COMMAND, "--fail-on-rollback", "-q")
    assert done.code == 1, done
    assert "regions were rolled back" in done.err
    assert os.listdir() == [], "nothing was written"


def test_the_whole_rolls_back_the_site_that_is_to_blame_and_only_that(monkeypatch: pytest.MonkeyPatch) -> None:
    tensor, struck = Writer._tensor, []

    def once(self: Writer, array: Any, node: ir.Node, what: str) -> str:
        if not struck and array.ndim == 4:
            struck.append(node.output)
        return tensor(self, -array if node.output in struck and array.ndim == 4 else array, node, what)

    monkeypatch.setattr(Writer, "_tensor", once)
    done = run(*COMMAND, "--weight-error", "-o", "mended", "--json")
    assert done.code == 0, done
    fusion = json.loads(Path("mended/manifest.json").read_text(encoding="utf-8"))["fusion"]
    rolled = [refusal for refusal in fusion["not_fused"] if refusal["kind"] == "rolled back"]
    assert len(rolled) == 1, rolled
    assert "diverge there first" in rolled[0]["reason"]
    assert rolled[0]["site"] not in [site["name"] for site in fusion["sites"]]
    assert len(fusion["sites"]) == 5
    assert fusion["certificate"]["worst_error"] <= 1e-12
    assert all(site["structure"] and site["precision"] for site in fusion["sites"])
    page = Path("mended/report.html").read_text(encoding="utf-8")
    assert "Not fused, and why: " in page
    assert "rolled back" in page
    assert "INT8 weights" in page


@pytest.mark.parametrize("broken", BREAKS)
def test_the_parity_gate_sees_it_without_the_certificate(broken: Break, monkeypatch: pytest.MonkeyPatch) -> None:
    broken(monkeypatch)
    fuse = stages.fuse_graph
    blind = lambda *a, **k: fuse(*a, **{**k, "certificate": False})  # noqa: E731
    monkeypatch.setattr(stages, "fuse_graph", blind)
    done = run(*COMMAND, "-q")
    assert done.code == 1, done
    assert "parity fails" in done.err
    assert os.listdir() == []


def test_a_site_whose_own_proof_fails_is_rolled_back_and_said(monkeypatch: pytest.MonkeyPatch) -> None:
    prove = certify.prove
    doubt = lambda graph, merge, profile: replace(prove(graph, merge, profile), structure=False)  # noqa: E731
    monkeypatch.setattr(certify, "prove", doubt)
    done = run(*COMMAND)
    assert done.code == 0, done
    said = " ".join(done.err.split())
    assert "rolled back: its certificate failed (bits differ under dyadic weights)" in said
    strict = run(*COMMAND, "--fail-on-rollback", "-q", "-o", "strict")
    assert strict.code == 1
    assert not Path("strict").exists()


def test_unbroken_it_passes() -> None:
    assert run(*COMMAND, "-q").code == 0
