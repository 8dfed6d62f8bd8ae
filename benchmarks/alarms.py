"""False alarms: every catalogue entry, correctly exported under several seeds, through every rule.

python -m benchmarks.alarms --output alarms.jsonl [--seeds 5] [--entries se,sk] [--minutes 10]

For each entry (preset ``test``, free batch) and seed, nothing is shared: weights and inputs are drawn
from the seed, the module is exported, simplified and judged on all its cases, and once more fused.
One line a graph goes to the output as soon as it is known; a second run goes on where the first one ended.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
import torch

from attn_export.export.audit.constants import auditor, known
from attn_export.export.audit.fused import auditor_of_fused
from attn_export.export.audit.layers import LOCAL, local_errors
from attn_export.export.reference import cases
from attn_export.mechanisms import MECHANISMS
from attn_export.pipeline import stages
from attn_export.pipeline.divergence.runs import probing
from attn_export.pipeline.options import BuildOptions
from attn_export.reparam.result import Fusion
from attn_export.types import Feeds
from benchmarks.detection import BOTH, COLUMNS, OURS, judge, subject


def graphs(name: str, seed: int) -> Iterator[dict[str, Any]]:
    """Yield an entry's correct graphs under one seed, plain and (where something was fused) fused, with verdicts."""
    built = subject(name, seed)
    rows = cases(built, seed)
    feeds, wanted = tuple(case.inputs for case in rows), known(built.module)
    plain = stages.build(built, BuildOptions(), feeds)
    whole = stages.build(built, BuildOptions(fuse=True), feeds)
    first, ports, fusion = plain.made[0].exported.model, plain.model.contract.outputs, whole.account(Fusion)
    assert fusion is not None
    found = [("plain", plain.model, auditor(wanted, first))]
    if fusion.sites:
        found.append(("fused", whole.model, auditor_of_fused(wanted, whole.made[0].exported.model, fusion.model)))
    for stage, exported, audit in found:
        passed = judge(exported.model, rows, ports)
        said = audit(exported.model)
        if passed is not None:
            passed[BOTH] = passed[OURS] and not said
        yield {
            "entry": name,
            "seed": seed,
            "stage": stage,
            "passed": passed,
            "audit": said,
            "local": None if passed is None else _local(exported.model, rows[0].inputs),
            "certificate": fusion.certificate.worst if stage == "fused" else None,
        }


def _local(model: onnx.ModelProto, feeds: Feeds) -> dict[str, Any]:
    """Find the layer that ONNX Runtime computes worst, in roundings of its natural size."""
    with probing(model, "onnxruntime", feeds) as probe:
        worst = max(local_errors(model, probe, feeds), key=lambda layer: layer.error)
    return {"error": worst.error, "op": worst.op, "node": worst.node, "ok": worst.ok}


def main() -> None:
    """Judge what is not in the output yet, and print how often each rule raised an alarm."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--entries", default="", help="all of the catalogue by default")
    parser.add_argument("--minutes", type=float, default=600)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    rows = [json.loads(line) for line in asked.output.read_text().splitlines()] if asked.output.exists() else []
    done = {(row["entry"], row["seed"]) for row in rows}
    until = time.monotonic() + 60 * asked.minutes
    names = asked.entries.split(",") if asked.entries else list(MECHANISMS)
    with asked.output.open("a", encoding="utf-8") as file:
        for seed in range(asked.seeds):
            for name in names:
                if (name, seed) in done or time.monotonic() > until:
                    continue
                try:
                    new = list(graphs(name, seed))
                except Exception as error:  # one entry that breaks is a finding, and must not end the table
                    new = [{"entry": name, "seed": seed, "stage": "broken", "passed": None, "audit": str(error)[:300]}]
                file.writelines(json.dumps(row) + "\n" for row in new)
                file.flush()
                rows += new
    _print(rows, len(names) * asked.seeds)


def _print(rows: list[dict[str, Any]], wanted: int) -> None:
    judged = [row for row in rows if row["passed"] is not None]
    for row in rows:
        if row["passed"] is None or not row["passed"][BOTH]:
            print(f"ALARM {row['entry']}, seed {row['seed']}, {row['stage']}: {row['audit'] or row['passed']}")
    print(f"\n| alarms on correct graphs | of | {' | '.join(COLUMNS)} |\n{'|---' * (len(COLUMNS) + 2)}|")
    for stage in ("plain", "fused"):
        some = [row["passed"] for row in judged if row["stage"] == stage]
        print(f"| {stage} | {len(some)} | " + " | ".join(str(sum(not r[c] for r in some)) for c in COLUMNS) + " |")
    layers = [(row["local"]["error"], row["entry"], row["seed"], row["local"]["op"]) for row in judged]
    beyond = sum(error > LOCAL for error, *_ in layers)
    print(f"\nlayer-local check: {beyond} of {len(layers)} beyond {LOCAL:g}; worst {sorted(layers)[-3:]}")
    count = Counter(row["stage"] for row in rows)
    done = len({(row["entry"], row["seed"]) for row in rows})
    print(f"\n{done} of {wanted} entries and seeds; {count['broken']} could not be judged")


if __name__ == "__main__":
    main()
