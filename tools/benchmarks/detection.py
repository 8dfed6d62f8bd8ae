"""Which rule notices which fault, and which cries wolf. Prints the table of faults, then that of correct graphs.

python -m attn_export.tools.benchmarks.detection [--subjects se,repvgg:a0,…] [--each 2] [--seeds 5] [--minutes 10]
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import torch

from attn_export.bundle import Case, Port
from attn_export.deploy_tests.backend import Options
from attn_export.deploy_tests.backends import BACKENDS
from attn_export.deploy_tests.classic import RULES, verdicts
from attn_export.deploy_tests.parity import prove
from attn_export.errors import AttnExportError, BackendError, UnknownNameError
from attn_export.export.audit import known, second_tier
from attn_export.export.exported import Exported
from attn_export.export.save import save
from attn_export.export.simplify import simplify
from attn_export.export.torch_onnx import export
from attn_export.export.truth import cases
from attn_export.mechanisms import MECHANISMS
from attn_export.mechanisms.subject import Subject, from_spec
from attn_export.reparam.exact import Exact
from attn_export.tools.benchmarks.faults import in_graph, in_module
from attn_export.tools.kill import EQUIVALENT
from attn_export.tools.pipeline import with_dynamic

OURS, BOTH = "k <= 4", "k <= 4 and audits"
COLUMNS = (OURS, BOTH, *RULES)
SUBJECTS = "se,repvgg,triplet,outlook,mlp_mixer,self_attention,external,eca,coordatt,mobilevit_attention,gfnet"


def subject(text: str, seed: int = 0) -> Subject:
    """A catalogue entry by ``name`` (preset ``test``) or ``name:preset``, with a free batch."""
    name, _, preset = text.partition(":")
    return with_dynamic(from_spec(name, MECHANISMS[name], preset or "test", seed=seed), "batch")


def judge(model: onnx.ModelProto, rows: Sequence[Case], ports: Sequence[Port]) -> dict[str, bool] | None:
    """Which rules pass the model on all cases; None where the runtime refuses it."""
    passed = dict.fromkeys(COLUMNS, True)
    with tempfile.TemporaryDirectory() as folder:
        save(model, path := Path(folder, "m.onnx"))
        try:
            with BACKENDS["onnxruntime"].open(path, Options()) as run:
                for case in rows:
                    came = run(case.inputs)
                    passed[OURS] &= prove(lambda _, came=came: came, [case], ports, backend="").ok  # type: ignore[misc]
                    for port in ports:
                        for rule, ok in verdicts(came[port.name], case.truth[port.name]).items():
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
    exact = Exact(model)
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
    rows, raw = cases(built), export(built)
    clean = simplify(raw)
    audit = second_tier(known(built.module), raw.model)
    ports = clean.contract.outputs
    evaluated = [Exact(clean.model).run(case.inputs) for case in rows]
    faulty = [(kind, m.of(clean.model)) for kind, ms in in_graph(clean.model).items() for m in ms[:each]]
    faulty += [(kind, _stages(replace(built, module=module)).model) for kind, module in in_module(built.module)]
    found = []
    for kind, model in faulty:
        passed = judge(model, rows, ports)
        if passed is None or not differs(model, evaluated, rows):
            continue
        passed[BOTH] = passed[OURS] and not audit(model)
        found.append((kind, passed))
    return found


def _stages(built: Subject) -> Exported:
    return simplify(export(built))


def main() -> None:
    """Print both tables, and write what they are made of with ``--json``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--subjects", default=SUBJECTS)
    parser.add_argument("--each", type=int, default=2)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    table: dict[str, list[dict[str, bool]]] = defaultdict(list)
    for text in filter(None, asked.subjects.split(",")):
        try:
            rows = plant(text, asked.each)
        except (AttnExportError, UnknownNameError) as error:
            print(f"{text}: {error}", file=sys.stderr)
            continue
        for kind, passed in rows:
            table[kind].append(passed)
        print(f"{text}: {len(rows)} faults", file=sys.stderr, flush=True)
    _print("caught of planted", {kind: [{c: not ok for c, ok in p.items()} for p in ps] for kind, ps in table.items()})
    alarms: dict[str, list[dict[str, bool]]] = defaultdict(list)
    began = time.monotonic()
    for seed in range(asked.seeds):
        for name in MECHANISMS:
            if time.monotonic() - began > 60 * asked.minutes:
                continue
            try:
                built = subject(name, seed)
                raw = export(built)
                clean = simplify(raw)
                verdict = judge(clean.model, cases(built, seed), clean.contract.outputs)
                assert verdict is not None
                passed = verdict
                passed[BOTH] = passed[OURS] and not second_tier(known(built.module), raw.model)(clean.model)
            except Exception as error:  # an entry that cannot be exported at all is said, and is no alarm
                print(f"{name}, seed {seed}: {str(error)[:160]}", file=sys.stderr, flush=True)
                continue
            if not (passed[OURS] and passed[BOTH]):
                print(f"FALSE ALARM {name}, seed {seed}: {passed}", file=sys.stderr, flush=True)
            alarms[f"seed {seed}"].append({column: not ok for column, ok in passed.items()})
    _print("false alarms of correct graphs", alarms)
    if asked.json:
        asked.json.write_text(json.dumps({"faults": table, "alarms": alarms}, indent=1), encoding="utf-8")


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
