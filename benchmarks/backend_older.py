"""Each node of the backend test data at every older opset in which its operator had another version.

    python -m benchmarks.backend_older [--only OPERATOR]

The data shows the newest versions only. What a node means in an older one is judged by ONNX Runtime, on the data's own
inputs; what that does not take (most attributes did not exist) is left out. Exits with 1 if we differ where the data
does not say that the runtime is wrong (``KNOWN``).
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Any

import onnx
import onnxruntime
from onnx import ModelProto, defs

from attn_export.reparam.evaluate.claims import RefusedOperatorError
from attn_export.reparam.evaluate.onnx import OnnxEvaluator
from benchmarks.backend_data import BackendCase, made
from benchmarks.backend_tests import differ

#: Where the runtime differs from the data itself at the newest opset; float8 codes come as bytes from it.
KNOWN = (
    "align_corners",
    "FLOAT8",
    "maxunpool_export_with_output_shape",
    "attention_4d_with_past_and_present_qk_matmul_bias",
)


def older(only: str = "") -> Iterator[tuple[BackendCase, ModelProto]]:
    """Models of one node, at each opset from 7 on that changed the operator."""
    versions: dict[str, set[int]] = defaultdict(set)
    for schema in defs.get_all_schemas_with_history():
        if not schema.domain:
            versions[schema.name].add(max(schema.since_version, 7))
    for case in made():
        node = case.model.graph.node[0]
        if len(case.model.graph.node) > 1 or node.domain or only not in node.op_type:
            continue
        for version in sorted(versions[node.op_type]):
            model = ModelProto()
            model.CopyFrom(case.model)
            del model.opset_import[:]
            model.opset_import.add(domain="", version=version)
            model.ir_version = 8 if version < 19 else 10
            yield case, model


def compare(case: BackendCase, model: ModelProto) -> str | None:
    """How we differ from ONNX Runtime: nothing if we agree, None if it does not take the model or we refuse it."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    for given, wanted in case.runs:
        try:
            session = onnxruntime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
            theirs: list[Any] = session.run(list(wanted), given)
        except Exception:  # its errors share no base class
            return None
        try:
            mine = OnnxEvaluator(model).run(given)
        except RefusedOperatorError:
            return None
        for name, right in zip(wanted, theirs, strict=True):
            if fault := differ(mine[name], right)[0]:
                return f"{name}: {fault}"
    return ""


def main() -> int:
    """Print what differs, and the counts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="operators whose name holds this")
    options = parser.parse_args()
    onnxruntime.set_default_logger_severity(4)
    counts = Counter[str]()
    for case, model in older(options.only):
        fault = compare(case, model)
        known = any(part in case.name for part in KNOWN)
        counts["left out" if fault is None else "agree" if not fault else "known" if known else "differ"] += 1
        if fault and not known:
            print(f"{case.name} at opset {model.opset_import[0].version}: {fault}")
    print(", ".join(f"{counts[kind]} {kind}" for kind in ("agree", "differ", "known", "left out")), onnx.__version__)
    return 1 if counts["differ"] or not counts["agree"] else 0


if __name__ == "__main__":
    sys.exit(main())
