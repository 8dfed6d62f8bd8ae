"""Which rule notices which planted fault, by kind and by subject. ``alarms`` asks which of them cries wolf.

python -m benchmarks.detection --output faults.jsonl [--subjects se,repvgg:a0,…] [--each 2]

A subject's faults go to the output once all of them are judged; a second run goes on where the first one ended.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import torch

from attn_export.bundle import Case
from attn_export.deploy_tests.backend import Options
from attn_export.deploy_tests.backends import BACKENDS
from attn_export.deploy_tests.parity import slices
from attn_export.deploy_tests.parity.compare import prove
from attn_export.deploy_tests.parity.metrics import RULES, verdicts
from attn_export.errors import BackendError
from attn_export.export.audit.constants import auditor, known
from attn_export.export.onnx.save import save
from attn_export.export.reference import cases
from attn_export.export.sources.catalogue import from_spec
from attn_export.export.subject import Subject, with_dynamic
from attn_export.mechanisms import MECHANISMS
from attn_export.pipeline.mutation_testing import EQUIVALENT
from attn_export.pipeline.options import BuildOptions
from attn_export.pipeline.stages import build
from attn_export.reparam.evaluate.onnx import OnnxEvaluator
from attn_export.types import TensorSpec
from benchmarks.faults import in_graph, in_module

OURS, BOTH = "k <= 4", "k <= 4 and audits"
COLUMNS = (OURS, BOTH, *RULES)
SUBJECTS = (
    "se,repvgg,triplet,outlook,mlp_mixer,self_attention,external,eca,coordatt,mobilevit_attention,gfnet,repvgg:a0"
)


def subject(text: str, seed: int = 0) -> Subject:
    """Build a catalogue entry by ``name`` (preset ``test``) or ``name:preset``, with a free batch."""
    name, _, preset = text.partition(":")
    return with_dynamic(from_spec(name, MECHANISMS[name], preset or "test", seed=seed), "batch")


def judge(model: onnx.ModelProto, rows: Sequence[Case], ports: Sequence[TensorSpec]) -> dict[str, bool] | None:
    """Which rules pass the model on all cases; None where the runtime refuses it."""
    passed = dict.fromkeys(COLUMNS, True)
    shares = slices.shares(rows)
    with tempfile.TemporaryDirectory() as folder:
        save(model, path := Path(folder, "m.onnx"))
        try:
            with BACKENDS["onnxruntime"].open(path, Options()) as run:
                for case in rows:
                    came = run(case.inputs)
                    passed[OURS] &= prove(
                        lambda _, came=came: came,  # type: ignore[misc]
                        [case],
                        ports,
                        backend="",
                        shares=shares,
                    ).ok
                    for port in ports:
                        for rule, ok in verdicts(came[port.name], case.reference[port.name]).items():
                            passed[rule] &= ok
        except BackendError:
            return None
    passed[BOTH] = passed[OURS]
    return passed


def differs(
    model: onnx.ModelProto,
    clean: Sequence[dict[str, np.ndarray[tuple[int, ...], np.dtype[np.float64]]]],
    rows: Sequence[Case],
) -> bool:
    """Whether a graph is another function than the clean one, in float64."""
    exact = OnnxEvaluator(model)
    for case, wanted in zip(rows, clean, strict=True):
        for name, came in exact.run(case.inputs).items():
            if came.shape != wanted[name].shape:
                return True
            if not np.linalg.norm(came - wanted[name]) <= EQUIVALENT * np.linalg.norm(wanted[name]):
                return True
    return False


def plant(text: str, each: int) -> list[tuple[str, dict[str, bool]]]:
    """Kind and verdicts of ``each`` faults of every kind in one subject, equivalents left out."""
    built = subject(text)
    rows, state = cases(built), build(built, BuildOptions())
    clean = state.model
    audit = auditor(known(built.module), state.made[0].exported.model)
    ports = clean.contract.outputs
    evaluated = [OnnxEvaluator(clean.model).run(case.inputs) for case in rows]
    faulty = [
        (kind, m.of(clean.model), m.condition is not None)
        for kind, ms in in_graph(clean.model).items()
        for m in ms[:each]
    ]
    faulty += [
        (kind, build(replace(built, module=module), BuildOptions()).model.model, False)
        for kind, module in in_module(built.module)
    ]
    found = []
    for kind, model, hidden in faulty:
        passed = judge(model, rows, ports)
        # A fault that shows on some inputs only is none that changes nothing, whether or not a case has such inputs.
        if passed is None or not (hidden or differs(model, evaluated, rows)):
            continue
        passed[BOTH] = passed[OURS] and not audit(model)
        found.append((kind, passed))
    return found


def main() -> None:
    """Plant and judge what ``--output`` does not hold yet, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--subjects", default=SUBJECTS)
    parser.add_argument("--each", type=int, default=2)
    parser.add_argument("--output", type=Path, required=True)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    rows = [json.loads(line) for line in asked.output.read_text().splitlines()] if asked.output.exists() else []
    done = {row["subject"] for row in rows}
    with asked.output.open("a", encoding="utf-8") as file:
        for text in asked.subjects.split(","):
            if text in done:
                continue
            found = [{"subject": text, "kind": kind, "passed": passed} for kind, passed in plant(text, asked.each)]
            file.writelines(json.dumps(row) + "\n" for row in found)
            file.flush()
            rows += found
            print(f"{text}: {len(found)} faults", file=sys.stderr, flush=True)
    for column in ("kind", "subject"):
        table: dict[str, list[dict[str, bool]]] = defaultdict(list)
        for row in rows:
            table[row[column]].append({name: not ok for name, ok in row["passed"].items()})
        _print(f"caught of planted, by {column}", table)


def _print(title: str, table: dict[str, list[dict[str, bool]]]) -> None:
    print(f"\n| {title} | of | " + " | ".join(COLUMNS) + " |")
    print("|---" * (len(COLUMNS) + 2) + "|")
    for name, rows in sorted(table.items()):
        print(f"| {name} | {len(rows)} | " + " | ".join(str(sum(r[c] for r in rows)) for c in COLUMNS) + " |")
    rows = [row for part in table.values() for row in part]
    print(
        f"| **all** | {len(rows)} | " + " | ".join(f"**{sum(r[c] for r in rows)}**" for c in COLUMNS) + " |", flush=True
    )


if __name__ == "__main__":
    main()
