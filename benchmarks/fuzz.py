"""Fuzz the fusion algebra for long: random linear nets, every bit compared at up to three sizes.

    python -m benchmarks.fuzz [--nets 50000] [--first 0] [--seconds S] [--border-maps]

Runs from a checkout, where the tests' generator of nets is. Exits with 1 if any net was wrong.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import time

import torch


def main() -> int:
    """Check nets one after the other; print every wrong one and the totals."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nets", type=int, default=50_000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop after this time")
    parser.add_argument("--border-maps", action="store_true", help="other nets, fixed sizes mostly, with border maps")
    options = parser.parse_args()
    torch.set_num_threads(1)
    sys.path.insert(0, ".")
    check = importlib.import_module("tests.reparam.fuzzing").check
    start, done, sizes, before, after, merges, maps, wrong = time.monotonic(), 0, 0, 0, 0, 0, 0, 0
    for seed in range(options.first, options.first + options.nets):
        verdict = check(seed, border_maps=options.border_maps)
        done += 1
        sizes, before, after = sizes + verdict.checked, before + verdict.before, after + verdict.after
        merges, maps = merges + verdict.merges, maps + verdict.maps
        if verdict.wrong:
            wrong += 1
            print(f"wrong: seed {seed} at {verdict.wrong}", flush=True)
        if done % 1000 == 0:
            print(
                f"{done} nets, {sizes} sizes, {wrong} wrong, {time.monotonic() - start:.0f} s",
                file=sys.stderr,
                flush=True,
            )
        if time.monotonic() - start > options.seconds:
            break
    print(
        f"{done} nets from seed {options.first}: {wrong} wrong; {sizes} sizes compared bit for bit; {before} → {after} "
        f"nodes in {merges} merges, {maps} with a border map; {time.monotonic() - start:.0f} s"
    )
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
