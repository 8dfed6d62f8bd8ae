"""Lint: every rule speaks where it should and is silent where it should, and the real parser agrees."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from attn_export.deploy_tests.backends.tensorrt import evidence
from attn_export.errors import SubjectError, UnknownNameError
from attn_export.export.lint import RULES
from attn_export.export.lint._probed import LEVELS
from attn_export.export.lint.tensorrt import NOT_PARSED
from attn_export.pipeline import lint
from tests.deploy_tests.tensorrt import graphs
from tests.deploy_tests.tensorrt.graphs import X, save

F = TensorProto.FLOAT
N = helper.make_node
IMAGE, OUT = X("x", F, [1, 4, 8, 8]), X("y", F, None)
ONE = np.ones((1, 4, 8, 8), np.float32)

Make = Callable[[Path], Path]


def _of(nodes, inputs=(IMAGE,), outputs=(OUT,), weights=None, opset=20) -> Make:
    return lambda path: save(path, nodes, list(inputs), list(outputs), weights, opset)


def _scatter(reduction: str) -> Make:
    weights = {"i": np.zeros((1, 1), np.int64), "u": ONE}
    return _of([N("ScatterND", ["x", "i", "u"], ["y"], name="it", reduction=reduction)], weights=weights)


def _resize(antialias: int) -> Make:
    node = N("Resize", ["x", "", "s"], ["y"], name="it", mode="linear", antialias=antialias)
    return _of([node], weights={"s": np.array([1, 1, 2, 2], np.float32)})


def _norm(outputs: list[str]) -> Make:
    node = N("LayerNormalization", ["x", "w"], outputs, name="it")
    ports = [OUT, *(X(name, F, None) for name in outputs[1:])]
    return _of([node], outputs=ports, weights={"w": np.ones(8, np.float32)})


def _grid(mode: str) -> Make:
    inputs = [X("x", F, [1, 2, 4, 4]), X("g", F, [1, 4, 4, 2])]
    return _of([N("GridSample", ["x", "g"], ["y"], name="it", mode=mode)], inputs)


def _quantised(zero: np.generic) -> Make:
    nodes = [N("QuantizeLinear", ["x", "s", "z"], ["q"], name="it"), N("DequantizeLinear", ["q", "s", "z"], ["y"])]
    return _of(nodes, weights={"s": np.float32(0.1), "z": zero})


def _scores(quantised: bool) -> Make:
    nodes = [N("MatMul", ["x", "k"], ["s"], name="scores")]
    if quantised:
        nodes += [N("QuantizeLinear", ["s", "c", "z"], ["q"]), N("DequantizeLinear", ["q", "c", "z"], ["d"])]
    nodes += [
        N("Softmax", ["d" if quantised else "s"], ["p"], name="it", axis=-1),
        N("MatMul", ["p", "k"], ["y"], name="weigh"),
    ]
    half = [X("x", TensorProto.FLOAT16, [1, 4, 8, 8])]
    weights = {"k": ONE.astype(np.float16), "c": np.float16(0.1), "z": np.int8(0)}
    return _of(nodes, half, [X("y", TensorProto.FLOAT16, None)], weights)


def _heads(key: int, value: int | None = None) -> Make:
    return lambda path: graphs.attention(path, "float16", key=key, value=value or key)


def _mean_of_squares(kind: int) -> Make:
    nodes = [N("Mul", ["x", "x"], ["q"]), N("ReduceMean", ["q", "a"], ["y"], name="it")]
    return _of(nodes, [X("x", kind, [1, 8])], [X("y", kind, None)], {"a": np.array([1])})


def _reduce(constant: bool) -> Make:
    inputs = [IMAGE] if constant else [IMAGE, X("a", TensorProto.INT64, [1])]
    return _of([N("ReduceSum", ["x", "a"], ["y"], name="it")], inputs, weights={"a": np.array([1])} if constant else {})


def _scales(constant: bool) -> Make:
    inputs = [IMAGE] if constant else [IMAGE, X("s", F, [4])]
    weights = {"s": np.array([1, 1, 2, 2], np.float32)} if constant else {}
    return _of([N("Resize", ["x", "", "s"], ["y"], name="it", mode="nearest")], inputs, weights=weights)


def _relu(rank: int = 4, kind: int = F, batch: int | str = 1) -> Make:
    shape = [batch, *[1] * (rank - 1)]
    return _of([N("Relu", ["x"], ["y"], name="it")], [X("x", kind, shape)], [X("y", kind, shape)])


#: Per rule: a graph it speaks about, the node, a graph it must be silent on, and whether the parser refuses the first.
TABLE: dict[str, tuple[Make, str, Make, bool]] = {
    "operator-unknown": (graphs.col2im, "fold", _relu(), True),
    "operator-needs-plugins": (graphs.nonzero, "find", _relu(), True),
    "second-output": (_norm(["y", "m"]), "it", _norm(["y"]), True),
    "antialias": (_resize(1), "it", _resize(0), True),
    "scales-not-constant": (_scales(False), "it", _scales(True), True),
    "axes-not-constant": (_reduce(False), "it", _reduce(True), True),
    "scatter-reduction": (_scatter("add"), "it", _scatter("none"), True),
    "rank-above-eight": (_relu(9), "it", _relu(8), True),
    "grid-sample-form": (_grid("cubic"), "it", _grid("linear"), False),
    "quantised-unsigned-or-shifted": (_quantised(np.uint8(128)), "it", _quantised(np.int8(0)), True),
    "bias-in-int32": (graphs.int32_bias, "bias", _quantised(np.int8(0)), True),
    "attention-operator-in-float32": (graphs.attention_operator, "attend", _relu(), True),
    "attention-in-float32": (graphs.attention, "softmax0", _scores(False), False),
    "head-width": (_heads(8), "softmax0", _heads(16), False),
    "quantised-scores": (_scores(True), "it", _scores(False), False),
    "norm-by-hand-in-float16": (_mean_of_squares(TensorProto.FLOAT16), "it", _mean_of_squares(F), False),
    "not-in-the-mobile-package": (_grid("linear"), "it", _relu(), False),
    "type-not-in-the-mobile-package": (_relu(kind=TensorProto.FLOAT16), "it", _relu(), False),
    "dynamic-input": (_relu(batch="b"), "it", _relu(), False),
    "not-on-nnapi": (_norm(["y"]), "it", _relu(), False),
    "not-on-coreml": (_of([N("Floor", ["x"], ["y"], name="it")]), "it", _relu(), False),
    "opset-above-nineteen": (_relu(), "it", _of([N("Relu", ["x"], ["y"], name="it")], opset=19), False),
}


def test_every_rule_is_in_the_table_and_has_a_source() -> None:
    rules = [rule for name in RULES for rule in RULES[name]]
    probed = {f"{name.replace('_', '-')}-{kind}" for name in RULES for kind in LEVELS}  # those are in test_probed.py
    assert {rule.name for rule in rules} - probed == set(TABLE)
    levels = ("refused", "wrong", "cast", "split", "not fused", "unknown")
    assert all(rule.source and rule.level in levels for rule in rules)


@pytest.mark.parametrize("name", TABLE)
def test_a_rule_speaks_and_is_silent(name: str, tmp_path: Path) -> None:
    bad, node, good, _ = TABLE[name]
    (target,) = (target for target in RULES if name in {rule.name for rule in RULES[target]})
    found = [f for f in lint.by_rules(lint.load(bad(tmp_path / "bad.onnx")), target) if f.rule == name]
    assert node in [f.node for f in found]
    assert all(f.reason and f.remedy and f.source and f.op for f in found)
    assert not [f for f in lint.by_rules(lint.load(good(tmp_path / "good.onnx")), target) if f.rule == name]


@pytest.fixture(scope="session")
def rtx() -> None:
    if why := evidence.missing():
        (pytest.fail if os.environ.get("CI") else pytest.skip)(why)


#: Where the sources name different nodes, with the reason.
NAMED_OTHERWISE = {
    "rank-above-eight": "the parser refuses the input tensor and names no node",
    "scales-not-constant": "the parser names no node when an input is a shape tensor of a wrong type",
}


@pytest.mark.usefixtures("rtx")
@pytest.mark.parametrize("name", [name for name in TABLE if name in {rule.name for rule in RULES["tensorrt"]}])
def test_rules_and_parser_agree(name: str, tmp_path: Path) -> None:
    bad, node, good, refused = TABLE[name]
    spoken = lint.by_parser(bad(tmp_path / "bad.onnx"), "tensorrt_rtx")
    assert bool(spoken) is refused
    assert lint.by_parser(good(tmp_path / "good.onnx"), "tensorrt_rtx") == []
    if refused and name not in NAMED_OTHERWISE:
        both = lint.agreement(lint.by_rules(lint.load(tmp_path / "bad.onnx"), "tensorrt"), spoken)
        assert (both.both, both.only_parser) == ((node,), ())
        assert all("TensorRT for RTX" in finding.source for finding in spoken)


@pytest.mark.usefixtures("rtx")
@pytest.mark.parametrize(("key", "value"), [(8, 8), (9, 9), (256, 256), (257, 257), (16, 24), (64, 64)])
def test_the_rule_on_head_widths_is_what_is_fused(key: int, value: int, tmp_path: Path) -> None:
    model = _heads(key, value)(tmp_path / "m.onnx")
    spoken = [f for f in lint.by_rules(lint.load(model), "tensorrt") if f.rule == "head-width"]
    fused = evidence.compile_only(model).plan.attention
    assert bool(spoken) is not bool(fused)


@pytest.mark.usefixtures("rtx")
def test_the_list_of_unknown_operators_is_what_the_parser_says() -> None:
    code = """
import tensorrt_rtx as trt, sys
log = trt.Logger(trt.Logger.ERROR)
builder = trt.Builder(log)
network = builder.create_network(1)
parser = trt.OnnxParser(network, log)
sys.stdout.write(" ".join(op for op in sys.argv[1:] if not parser.supports_operator(op)))
"""
    known = sorted({s.name for s in onnx.defs.get_all_schemas() if s.domain == "" and not s.deprecated})
    said = subprocess.run([sys.executable, "-c", code, *known], capture_output=True, text=True, check=True).stdout
    assert set(said.split()) == NOT_PARSED & set(known)


def _flat(op: str, rank: int, **more: object) -> Make:
    return _of([N(op, ["x"], ["y"], name="it", **more)], [X("x", F, [1, 4, *[8] * (rank - 2)])])


#: What is taken in one form only, with the rules that speak of it.
FORMS: dict[str, tuple[Make, set[str]]] = {
    "pool of a row": (_flat("GlobalAveragePool", 3), {"not-on-nnapi", "not-on-coreml"}),
    "pool of a map": (_flat("GlobalAveragePool", 4), set()),
    "depth to space, column first": (_flat("DepthToSpace", 4, blocksize=2, mode="CRD"), {"not-on-nnapi"}),
    "depth to space, depth first": (_flat("DepthToSpace", 4, blocksize=2, mode="DCR"), set()),
    "product of two inputs": (
        _of([N("Gemm", ["x", "w"], ["y"])], [X("x", F, [2, 3]), X("w", F, [3, 4])]),
        {"not-on-nnapi", "not-on-coreml"},
    ),
    "product with a transposed input": (
        _of([N("Gemm", ["x", "w"], ["y"], transB=1)], [X("x", F, [2, 3]), X("w", F, [4, 3])]),
        {"not-on-coreml"},
    ),
    "product with a constant": (
        _of([N("Gemm", ["x", "w"], ["y"])], [X("x", F, [2, 3])], weights={"w": np.ones((3, 4), np.float32)}),
        set(),
    ),
}


@pytest.mark.parametrize("name", FORMS)
def test_the_form_decides_on_an_accelerator(name: str, tmp_path: Path) -> None:
    make, rules = FORMS[name]
    found = lint.by_rules(lint.load(make(tmp_path / "m.onnx")), "ort_mobile")
    assert {f.rule for f in found if f.level == "split"} == rules


def test_a_disagreement_is_listed_by_name() -> None:
    rules = [
        lint.LintFinding(n, "Relu", level, "r", "", "s", "x") for n, level in (("a", "refused"), ("b", "not fused"))
    ]
    parser = [lint.LintFinding("c", "Relu", "refused", "r", "", "s", "parser")]
    found = lint.agreement(rules, parser)
    assert (found.both, found.only_rules, found.only_parser, found.ok) == ((), ("a",), ("c",), False)


def test_refusals(tmp_path: Path) -> None:
    model = lint.load(_relu()(tmp_path / "m.onnx"))
    with pytest.raises(UnknownNameError, match="did you mean 'tensorrt'"):
        lint.by_rules(model, "tensorr")
    (tmp_path / "bad.onnx").write_bytes(b"\xff\xff no model")
    with pytest.raises(SubjectError, match="is not an ONNX file"):
        lint.load(tmp_path / "bad.onnx")


def test_a_finding_says_where_it_came_from(tmp_path: Path) -> None:
    import torch
    from torch import nn

    class Fold(nn.Module):
        def forward(self, x):
            return nn.functional.fold(nn.functional.unfold(x, 3), (8, 8), 3)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.folding = Fold()

        def forward(self, x):
            return self.folding(x)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch's own, about its own
        program = torch.onnx.export(Net().eval(), (torch.zeros(1, 2, 8, 8),), dynamo=True, verbose=False)
    (finding,) = [f for f in lint.by_rules(program.model_proto, "tensorrt") if f.op == "Col2Im"]
    assert finding.where.startswith("folding (Fold), ")
    assert "test_lint.py" in finding.where
    assert str(finding).startswith("refused: Col2Im ")
