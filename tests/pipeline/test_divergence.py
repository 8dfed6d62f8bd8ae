"""Where two runs part is said with node, module and line, and shown again by a small script."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import pytest

from attn_export.export.graph.origin import Origin, origins, trace
from attn_export.export.mutants.catalogue import Mutation, mutations
from attn_export.export.onnx.simplify import simplify
from attn_export.export.onnx.torch_export import export
from attn_export.export.sources.catalogue import from_spec
from attn_export.mechanisms import MECHANISMS
from attn_export.pipeline.divergence.locate import between_graphs, locate, of_runtime
from attn_export.pipeline.divergence.repro import write_repro
from attn_export.pipeline.divergence.runs import Variant
from tests.export.models import cases, rich

ROOT = Path(__file__).parents[2]
FEEDS = [(case.name, case.inputs) for case in cases(rich())]


@cache
def exported(name: str) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    raw = export(from_spec(name, MECHANISMS[name], "test"))
    return raw.model, simplify(raw).model


@pytest.mark.parametrize("mutation", [m for m in mutations(rich()) if m.node and not m.condition], ids=lambda m: m.name)
def test_a_planted_fault_is_found_at_its_node(mutation: Mutation) -> None:
    found = between_graphs(rich(), mutation.of(rich()), FEEDS[0][1])
    assert found is not None
    assert found.tensor == mutation.node
    assert found.runs <= 6


def test_a_correct_runtime_departs_nowhere() -> None:
    for _, feeds in FEEDS:
        assert of_runtime(rich(), "onnxruntime", feeds) is None
    assert locate(rich(), FEEDS, reference=rich()) is None


def test_simplifying_departs_nowhere_and_the_reference_is_needed_to_see_a_fault_in_the_graph() -> None:
    raw, simplified = exported("self_attention")
    feeds = from_spec("self_attention", MECHANISMS["self_attention"], "test").example()
    inputs = {name: value.numpy() for name, value in feeds.items()}
    assert between_graphs(raw, simplified, inputs) is None
    mutant = next(m for m in mutations(simplified) if m.kind == "softmax over another axis")
    assert between_graphs(raw, mutant.of(simplified), inputs) is not None
    assert of_runtime(mutant.of(simplified), "onnxruntime", inputs) is None


def test_the_finding_names_module_and_python_line() -> None:
    raw, simplified = exported("self_attention")
    feeds = from_spec("self_attention", MECHANISMS["self_attention"], "test").example()
    inputs = {name: value.numpy() for name, value in feeds.items()}
    mutation = next(m for m in mutations(simplified) if m.where == "query.bias" and m.kind == "bias dropped")
    found = locate(mutation.of(simplified), [("one", inputs)], reference=raw, known=origins(raw))
    assert found is not None
    assert found.origin is not None
    assert found.origin.module == "query"
    assert found.origin.file == "mechanisms/attention/self_attention.py", "relative to the project"
    lines = (ROOT / found.origin.file).read_text(encoding="utf-8").splitlines()[found.origin.line - 1 :]
    assert lines[0].strip() == found.origin.code
    assert "self.query" in "".join(lines[:3]), "the statement begins at this line"
    assert "case 'one'" in found.summary()
    json.dumps(found.to_dict(), allow_nan=False)


def test_a_renamed_tensor_is_traced_to_its_neighbours() -> None:
    known = {"erf": Origin("act", "GELU", "f.py", 3, "gelu(x)")}
    assert trace(rich(), "erf", known) == known["erf"]
    assert trace(rich(), "scaled", known) == known["erf"], "its reader"
    assert trace(rich(), "plus", known) == known["erf"], "what it reads"
    assert trace(rich(), "conv", known) is None
    assert origins(rich()) == {}, "a graph without notes"


def test_the_script_shows_the_fault_and_passes_on_the_clean_part(tmp_path: Path) -> None:
    mutation = next(m for m in mutations(rich()) if m.kind == "softmax over another axis")
    mutant, feeds = mutation.of(rich()), FEEDS[1][1]
    found = between_graphs(rich(), mutant, feeds)
    assert found is not None
    assert write_repro(mutant, found, feeds, tmp_path, Variant("clean", rich())) == 1
    assert len((tmp_path / "repro.py").read_text(encoding="utf-8").splitlines()) <= 13
    command = [sys.executable, "repro.py"]
    shown = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert shown.returncode == 1, shown.stderr
    assert "relative error" in shown.stdout
    part = onnx.load(tmp_path / "part.onnx")
    part.graph.node[0].attribute[0].i = -1  # mended
    onnx.save(part, tmp_path / "part.onnx")
    assert subprocess.run(command, cwd=tmp_path, capture_output=True, check=False).returncode == 0
    with np.load(tmp_path / "inputs.npz") as archive:
        assert set(archive.files) == {"linear", "expected"}


def test_what_a_coarser_precision_is_granted_is_no_divergence() -> None:
    model = rich()
    mutation = next(m for m in mutations(model) if m.kind == "one weight +1 %")
    off = mutation.of(model)
    assert locate(off, FEEDS, reference=model) is not None
    assert locate(off, FEEDS, reference=model, snr=20.0) is None
    zeroed = next(m for m in mutations(model) if m.kind == "weight zeroed").of(model)
    assert locate(zeroed, FEEDS, reference=model, snr=60.0) is not None
