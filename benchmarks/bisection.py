"""Plant faults and see whether bisection names the very node, and in how many runs.

    python -m benchmarks.bisection [--plantings 100] [--seed 0] [--per 5] [--runtime]

With ``--runtime`` the faulty graph runs in float32 under ONNX Runtime and is held against the clean graph in float64,
as a backend with a wrong kernel would be; then only faults whose outputs are out of bounds are plantings.

A planting is a mutant whose outputs differ from the clean graph's by more than float64 noise on one of the cases; the
others are equivalent and are drawn anew.
"""

from __future__ import annotations

import argparse
import math
import random
import sys
from collections.abc import Iterator

import torch

from attn_export.errors import AttnExportError
from attn_export.export.reference import cases
from attn_export.export.sources.catalogue import from_spec
from attn_export.export.subject import with_dynamic
from attn_export.mechanisms import MECHANISMS
from attn_export.pipeline.divergence.locate import between_graphs, of_runtime
from attn_export.pipeline.options import BuildOptions
from attn_export.pipeline.stages import build
from benchmarks.faults import in_graph


def plantings(name: str, per: int, random_: random.Random, runtime: bool) -> Iterator[tuple[str, bool, int, int]]:
    """Yield fault, whether its node was named alone, runs used, and count of nodes, for ``per`` faults of one entry."""
    subject = with_dynamic(from_spec(name, MECHANISMS[name], "test"), "batch")
    rows, clean = cases(subject), build(subject, BuildOptions()).model.model
    faults = [m for kind in in_graph(clean).values() for m in kind if m.node and m.kind != "two tensors swapped"]
    random_.shuffle(faults)
    outputs = {value.name for value in clean.graph.output}
    for fault in faults:
        if per == 0:
            return
        mutant = fault.of(clean)
        found = None
        for case in rows:
            if runtime:
                found = of_runtime(mutant, "onnxruntime", case.inputs, meaning=clean)
            else:
                found = between_graphs(clean, mutant, case.inputs)
            if found:
                break
        if found is None:
            continue
        per -= 1
        made = {name for position in found.window for name in mutant.graph.node[position].output}
        several = fault.kind == "tanh for erf" or fault.node in outputs  # nodes that the clean graph lacks
        exact = found.tensor == fault.node and (len(found.window) == 1 or several)
        yield f"{fault.name} ({found.tensor}, {len(made)})", exact, found.runs, len(mutant.graph.node)


def main() -> None:
    """Print the share of hits and the runs used, against log2 of the nodes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--plantings", type=int, default=100)
    parser.add_argument("--per", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--runtime", action="store_true")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    random_ = random.Random(asked.seed)  # noqa: S311  # which faults are tried is no secret
    names = list(MECHANISMS)
    random_.shuffle(names)
    hits: list[bool] = []
    runs: list[int] = []
    excess: list[int] = []
    for name in names:
        try:
            left = min(asked.per, asked.plantings - len(hits))
            for fault, exact, used, nodes in plantings(name, left, random_, asked.runtime):
                hits.append(exact)
                runs.append(used)
                excess.append(used - math.ceil(math.log2(nodes)))
                if not exact:
                    print(f"missed: {name}: {fault}", flush=True)
        except AttnExportError as error:
            print(f"{name}: {str(error)[:160]}", file=sys.stderr, flush=True)
        except RuntimeError as error:  # the entry itself does not run
            print(f"{name}: {str(error)[:160]}", file=sys.stderr, flush=True)
        if len(hits) >= asked.plantings:
            break
    mean = sum(runs) / len(runs)
    print(f"{sum(hits)} of {len(hits)} plantings named exactly; {mean:.1f} runs on average, {max(runs)} at most,")
    print(f"never more than ceil(log2(nodes)) + {max(excess)}")


if __name__ == "__main__":
    main()
