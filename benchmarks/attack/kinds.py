"""Every kind of hostile input: what makes it, and what a worker imports before the first."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

from benchmarks.attack import bundles, checkpoints, graphs, inputs, names, signatures, words
from benchmarks.attack.attempt import Attempt, Generator
from benchmarks.attack.pool import Pool, Task

_DEVICE = ("attn_export.tools.commands.device", "attn_export.tools.commands.report", "onnxruntime", "onnx")
_GRAPHS = (*_DEVICE, "attn_export.tools.commands.graphs", "attn_export.tools.commands.diff")
_HOST = (
    *_GRAPHS,
    "attn_export.tools.commands.export",
    "attn_export.pipeline.deploy",
    "attn_export.export.sources.user_code",
)


@dataclass(frozen=True)
class Kind:
    """A kind of input.

    Attributes:
        make: puts it into a folder, and says what to run on it.
        imports: what the commands on it need: once, before the workers are forked.
    """

    make: Generator
    imports: tuple[str, ...]


KINDS: Mapping[str, Kind] = {
    "bundle": Kind(bundles.hostile_bundle, _GRAPHS),
    "kit": Kind(bundles.hostile_kit, (*_DEVICE, "attn_export.deploy_tests.conformance.kit")),
    "onnx": Kind(graphs.hostile_graph, _HOST),
    "checkpoint": Kind(checkpoints.hostile_weights, _HOST),
    "data": Kind(inputs.hostile_data, _HOST),
    "kwargs": Kind(words.hostile_kwargs, _HOST),
    "words": Kind(
        words.hostile_words,
        (
            *_HOST,
            "attn_export.tools.commands.bench",
            "attn_export.tools.commands.sweep",
            "attn_export.deploy_tests.conformance.kit",
        ),
    ),
    "signature": Kind(
        signatures.hostile_signature, (*_DEVICE, "attn_export.tools.commands.sign", "attn_export.bundle.signing")
    ),
    "names": Kind(names.hostile_names, _HOST),
}


def lay_out(kind: str, seed: int, folder: Path, honest: Path) -> Attempt:
    """Make an attempt's files in ``folder``."""
    folder = folder.resolve()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    here = Path.cwd()
    try:
        os.chdir(folder)
        return KINDS[kind].make(folder, honest, Random(f"{kind} {seed}"))  # noqa: S311
    finally:
        os.chdir(here)


def only(kind: str, seeds: Sequence[int], mode: str, honest: Path, keep: Path | None) -> int:
    """Run attempts and show all of them; with ``keep`` their files are laid out there."""
    from benchmarks.attack import inside

    inside.prepare(KINDS[kind].imports)
    pool = Pool({name: item.make for name, item in KINDS.items()}, honest, size=1)
    clean = True
    for outcome in pool.run(Task(kind, seed, mode) for seed in seeds):
        clean &= outcome.clean
        print(f"{kind} {outcome.seed}: {', '.join(outcome.flaws) or 'clean'}; exit {outcome.code}; {outcome.seconds} s")
        print(
            f"  {outcome.what}\n  attn-export {' '.join(map(repr, outcome.words))}\n  {outcome.where}\n{outcome.text}"
        )
        if keep:
            target = keep / f"{kind}-{outcome.seed}" / "work"
            lay_out(kind, outcome.seed, target, honest)
            print(f"  laid out in {target}", file=sys.stderr)
    return 0 if clean else 1
