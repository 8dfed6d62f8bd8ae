"""Between any two of: the eager module, the exported, fused, simplified, float16 and INT8 graph, and a backend.

For each pair: correct runs do not diverge, and a fault injected into one of them is named with its node.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from attn_export.deploy_tests.backend import Options, Run, Traits
from attn_export.deploy_tests.backends.onnxruntime import BACKEND as ORT
from attn_export.errors import ExportError, UsageError
from attn_export.export.sources.catalogue import from_spec
from attn_export.export.subject import Subject
from attn_export.export.traced import Traced
from attn_export.mechanisms import MECHANISMS
from attn_export.pipeline import stages
from attn_export.pipeline.divergence import repro, runs
from attn_export.pipeline.divergence.repro import write_repro
from attn_export.pipeline.divergence.runs import Variant, first_difference
from attn_export.pipeline.divergence.variants import VariantFactory
from tests.export.models import cases, quantised, rich
from tests.tools.run import run

STAGES = ("original", "exported", "fused", "simplified", "float16")


@cache
def named() -> VariantFactory:
    return VariantFactory(from_spec("repvgg", MECHANISMS["repvgg"], "test"), fused=True)


def feeds() -> dict[str, np.ndarray[Any, Any]]:
    return dict(named().cases["as traced"])


def broken(model: onnx.ModelProto, op: str) -> tuple[onnx.ModelProto, str]:
    """One weight of the middle node of this kind is ten times what it was; the tensor that it makes."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    weights = {tensor.name: tensor for tensor in copy.graph.initializer}
    # A node whose name the stages before know, too: others can be named up to the next that does.
    nodes = [n for n in copy.graph.node if n.op_type == op and n.input[1] in weights]
    node = nodes[len(nodes) // 2]
    tensor = weights[node.input[1]]
    values = numpy_helper.to_array(tensor).copy()
    values.flat[np.abs(values).argmax()] *= 10
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    return copy, node.output[0]


PAIRS = [(one, other) for i, one in enumerate(STAGES) for other in STAGES[i + 1 :]]


@pytest.mark.parametrize(("one", "other"), PAIRS, ids=[f"{a}-{b}" for a, b in PAIRS])
def test_a_fault_in_a_stage_is_named_against_every_earlier_one(one: str, other: str) -> None:
    truth, suspect = named().pair(one, other)
    assert first_difference(truth, suspect, feeds()) is None
    assert suspect.graph is not None
    faulty, tensor = broken(suspect.graph, "Conv")
    found = first_difference(truth, replace(suspect, graph=faulty), feeds())
    assert found is not None
    made = {name for position in found.window for name in faulty.graph.node[position].output}
    assert tensor in made, found.summary()
    assert len(found.window) <= 3, "casts and what a stage renamed, and no more"
    assert found.runs <= 7
    assert found.error > found.bound


class Leaky:
    """A backend whose Relu is a LeakyRelu."""

    def missing(self) -> None:
        return None

    def version(self) -> str:
        return "leaky"

    @contextmanager
    def open(self, model: Path, options: Options) -> Iterator[Run]:
        graph = onnx.load(model)
        for node in graph.graph.node:
            if node.op_type == "Relu":
                node.op_type = "LeakyRelu"
                node.attribute.append(helper.make_attribute("alpha", 0.5))
        onnx.save(graph, model)
        with ORT.open(model, options) as run:
            yield run


@pytest.mark.parametrize(
    ("truth", "stage"),
    [
        ("original", "simplified"),
        *((stage, stage) for stage in STAGES[1:4]),
        ("float16@onnxruntime", "float16"),
        ("simplified@onnxruntime", "simplified"),
    ],
)
def test_a_wrong_kernel_is_named_against_every_stage_and_another_backend(
    truth: str, stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = {"onnxruntime": ORT, "leaky": Leaky()}
    monkeypatch.setattr(runs, "opened", lambda name, path, options: known[name].open(path, options))
    one = named().variant(truth)
    right = named().variant(f"{stage}@onnxruntime")
    assert first_difference(one, right, feeds()) is None
    found = first_difference(one, replace(right, backend="leaky"), feeds())
    assert found is not None
    assert found.op == "Relu"
    first = next(n for n in right.graph.graph.node if n.op_type == "Relu")  # type: ignore[union-attr]  # it has one
    assert found.tensor == first.output[0]


@pytest.mark.parametrize("backend", [None, "onnxruntime"])
def test_int8_is_held_to_the_snr_that_is_asked_for(backend: str | None) -> None:
    values = cases(rich())[0].inputs
    truth, suspect = Variant("float", rich()), Variant("int8", quantised(), backend=backend)
    assert first_difference(truth, suspect, values) is not None, "INT8 is no float32"
    assert first_difference(truth, replace(suspect, snr=20.0), values) is None
    faulty = onnx.ModelProto()
    faulty.CopyFrom(quantised())
    next(node for node in faulty.graph.node if node.name == "n_both").op_type = "Sub"
    found = first_difference(truth, replace(suspect, graph=faulty, snr=20.0), values)
    assert found is not None
    assert (found.op, found.tensor) == ("Sub", "both")
    assert found.shape == (1, 4, 6, 6)


def test_a_quantised_file_wants_the_users_figure(tmp_path: Path) -> None:
    onnx.save(rich(), tmp_path / "net.onnx")
    onnx.save(quantised(), tmp_path / "int8.onnx")
    words = ["diff", tmp_path / "net.onnx", "--input", "x:b=2x4x6x6", "--between", f"exported,{tmp_path}/int8.onnx"]
    came = run(*words)
    assert (came.code, "--snr" in came.err) == (2, True), came.err
    came = run(*words, "--snr", 15)
    assert came.code == 0, came.err
    came = run(*words, "--snr", 90, "--json")
    assert came.code == 1
    row = json.loads(came.out.splitlines()[0])["divergence"]
    assert row["tensor"] == "conv"
    assert len(row["window"]) == 4, "the quantisers have no partner in the float graph"


def test_the_command_names_node_module_and_line_and_writes_what_shows_it(tmp_path: Path) -> None:
    subject = VariantFactory(from_spec("self_attention", MECHANISMS["self_attention"], "test"))
    model = subject.variant("simplified").graph
    assert model is not None
    faulty, tensor = broken(model, "MatMul")
    onnx.save(faulty, tmp_path / "faulty.onnx")
    out = tmp_path / "part"
    pair = f"original,{tmp_path}/faulty.onnx"
    came = run("diff", "self_attention", "--preset", "test", "--between", pair, "-o", out)
    assert came.code == 1, came.err
    assert "mechanisms/attention/self_attention.py:" in came.out
    assert "first divergence at Add 'node_linear_3' or one of the 1 nodes before it" in came.out, (
        "the bias has the name"
    )
    assert next(n for n in faulty.graph.node if tensor in n.output).op_type == "MatMul"
    assert [n.op_type for n in onnx.load(out / "part.onnx").graph.node] == ["MatMul", "Add"]
    assert "relative error along the graph" in came.out
    lines = (out / "repro.py").read_text(encoding="utf-8").splitlines()
    assert sum(bool(line) for line in lines) <= 10
    done = subprocess.run([sys.executable, "repro.py"], cwd=out, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    assert "relative error" in done.stdout


def test_a_fault_of_the_exporter_is_named_when_parity_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The runtime does what the graph says, so only the eager module can tell which node is wrong."""
    right = stages.export_subject

    def wrong(*words: Any) -> Any:
        made = right(*words)
        return replace(made, model=broken(made.model, "Conv")[0])

    monkeypatch.setattr(stages, "export_subject", wrong)
    came = run("repvgg", "--preset", "test", "--no-bench", "--mutants", "none", "-o", tmp_path / "b")
    assert came.code == 1, came.err
    assert "it diverges at original and the exported graph" in came.err
    assert "first divergence at Conv" in came.err
    assert "conv_bn.py:" in came.err
    assert not (tmp_path / "b").exists()


def test_the_script_of_another_backend_opens_that_backend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What runs the script has the backend installed; here it is a stand-in under ONNX Runtime's own name."""
    faulty, _ = broken(rich(), "MatMul")
    values = cases(rich())[0].inputs
    found = first_difference(Variant("clean", rich()), Variant("faulty", faulty), values)
    assert found is not None
    monkeypatch.setattr(runs, "opened", lambda _, path, options: ORT.open(path, options))
    monkeypatch.setattr(repro, "traits", lambda _: Traits())
    write_repro(faulty, found, values, tmp_path, Variant("clean", rich()), "mine")
    script = tmp_path / "repro.py"
    text = script.read_text(encoding="utf-8")
    assert 'BACKENDS["mine"]' in text
    script.write_text(text.replace('BACKENDS["mine"]', 'BACKENDS["onnxruntime"]'), encoding="utf-8")
    done = subprocess.run([sys.executable, "repro.py"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    assert "relative error" in done.stdout


def test_a_trace_that_is_not_the_module_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    subject: Subject = from_spec("se", MECHANISMS["se"], "test")
    made = VariantFactory(subject)
    monkeypatch.setattr(Traced, "agrees", lambda *_: 1e-3)
    with pytest.raises(ExportError, match=r"the trace of se:test is not the module.*1.00e-03 off"):
        made.variant("original")


def test_a_trace_is_held_against_the_eager_module() -> None:
    subject = from_spec("se", MECHANISMS["se"], "test")
    traced = Traced(subject)
    values = {name: value.numpy() for name, value in subject.example(seed=1).items()}
    assert traced.agrees(values) < 1e-12
    held = {name: value.clone() for name, value in traced.program.state_dict.items()}
    traced.program.state_dict.update(held)  # the program shares its parameters with the module
    module: Any = subject.module
    module.excite.weight.data.mul_(1.01)
    assert traced.agrees(values) > 1e-5


def test_two_eager_runs_have_no_graph_to_walk() -> None:
    one = named().variant("original")
    with pytest.raises(UsageError, match="are the same"):
        first_difference(one, one, feeds())


def test_every_tensor_of_the_trace_is_one_of_the_graph_in_float64() -> None:
    """Names are what pairs them: a name that meant something else would be a false alarm."""
    graph, original = named().variant("exported").graph, named().variant("original").original
    assert graph is not None
    assert original is not None
    shared = original.names & {name for node in graph.graph.node for name in node.output}
    assert len(shared) == len(graph.graph.node)
    rows = dict(original.visit(feeds(), shared))
    came = dict(runs.meaning(Variant("graph", graph), feeds())(sorted(shared)))
    worst = max(float(np.linalg.norm(came[n] - rows[n]) / np.linalg.norm(rows[n])) for n in shared)
    assert worst < 1e-6, "the exporter folds batch norms in float32"
