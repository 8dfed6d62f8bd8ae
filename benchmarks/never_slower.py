"""Whether fusing ever makes a graph slower: the whole catalogue and whole networks, fused against un-fused.

    python -m benchmarks.never_slower --prepare [--folder F] [NAME …]   exports, noisy or not
    python -m benchmarks.never_slower --measure [--folder F] [--minutes 12]   timing only

Preparing exports every entry and variant, and keeps both graphs of those that fusing changes: found out at preset
``test``, timed at preset ``readme`` where there is one. Measuring plays each pair as the main job does: interleaved
blocks, one process after another, with a control (``deploy_tests/latency/comparison.py``). Results are kept one by one.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from functools import partial as later
from pathlib import Path
from typing import Any

import onnx
import torch
from numpy.typing import NDArray

from attn_export import bundle
from attn_export.bundle import Case
from attn_export.deploy_tests.latency.comparison import Rules, compare_latency
from attn_export.errors import AttnExportError
from attn_export.export.onnx.save import save
from attn_export.export.sources.catalogue import from_spec
from attn_export.export.subject import Subject
from attn_export.mechanisms import MECHANISMS
from attn_export.pipeline import stages
from attn_export.pipeline.options import BuildOptions
from attn_export.pipeline.report.content import interval
from attn_export.reparam.fuse_onnx import fuse_graph
from attn_export.reparam.result import Fusion
from benchmarks import fusion as networks
from benchmarks.networks import NETWORKS, build

#: Un-fused, fused, and the inputs.
Pair = tuple[onnx.ModelProto, onnx.ModelProto, Mapping[str, NDArray[Any]]]
RESULTS, PLAIN, FUSED, CASES = "results.json", "plain.onnx", "fused.onnx", "cases.npz"
#: Processes, rounds and seconds of a block: 24 seconds a pair where the control is quiet.
RULES = Rules(processes=4, rounds=8, block=0.03)


def prepare(folder: Path, wanted: set[str]) -> None:
    """Export and fuse all there is; keep the pairs that differ, and say of each what became of it."""
    for name in MECHANISMS.entries:
        if not wanted or name in wanted:
            for preset in _changed(name):
                _attempt(folder, f"{name}-{preset}", later(_entry, name, preset))
    for name in NETWORKS:
        if not wanted or name in wanted:
            _attempt(folder, name, later(_network, name))


def _attempt(folder: Path, label: str, make: Callable[[], Pair]) -> None:
    """Keep a pair in a folder of its own, written last to first, so that what is there is whole."""
    place = folder / label
    if (place / PLAIN).exists():
        return
    place.mkdir(parents=True, exist_ok=True)
    try:
        plain, fused, feeds = make()
    except AttnExportError as error:
        print(f"{label}: {error}", flush=True)
        return
    bundle.write_cases(place / CASES, (Case("first", feeds, {}, {}),))
    save(fused, place / FUSED)
    save(plain, place / PLAIN)
    print(f"{label}: {len(plain.graph.node)} → {len(fused.graph.node)} nodes", flush=True)


def _changed(name: str) -> Iterator[str]:
    """Yield the configurations that fusing changes, ``readme`` in place of ``test``."""
    spec = MECHANISMS[name]
    for preset in ("test", *spec.variants):
        if preset not in spec.configurations:
            continue
        try:
            changed = bool(_fused(from_spec(name, spec, preset)).sites)
        except AttnExportError as error:
            print(f"{name}-{preset}: {error}", flush=True)
            continue
        if changed:
            yield "readme" if preset == "test" and "readme" in spec.configurations else preset


def _fused(subject: Subject) -> Fusion[onnx.ModelProto]:
    made = stages.build(subject, BuildOptions(fuse=True, certify=False), through="fuse").by("fuse")
    assert made is not None
    return stages.fusion_of(made)


def _entry(name: str, preset: str) -> Pair:
    subject = from_spec(name, MECHANISMS[name], preset)
    exported = stages.build(subject, BuildOptions(certify=False), through="export")
    pair = [stages.run(exported, BuildOptions(fuse=fuse, certify=False)).model.model for fuse in (False, True)]
    return pair[0], pair[1], exported.feeds[0]


def _network(name: str) -> Pair:
    x = torch.randn(NETWORKS[name].shape)
    plain = networks.export(build(name), x)
    feeds = {plain.graph.input[0].name: x.numpy()}
    return plain, fuse_graph(plain, cases=[feeds], certificate=False).model, feeds


def measure(folder: Path, wanted: set[str], minutes: float) -> None:
    """Time the pairs that have no result yet, until the time is over; then print the table."""
    began = time.perf_counter()
    known: dict[str, dict[str, Any]] = {}
    if (folder / RESULTS).exists():
        known = json.loads((folder / RESULTS).read_text(encoding="utf-8"))
    places = sorted(place.parent for place in folder.glob(f"*/{PLAIN}"))
    chosen = [p for p in places if not wanted or p.name in wanted or p.name.split("-")[0] in wanted]
    left = [place for place in chosen if wanted or place.name not in known]
    for number, place in enumerate(left):
        if time.perf_counter() - began > 60 * minutes:
            print(f"{len(left) - number} pairs are left; the same command goes on with them")
            break
        contest = compare_latency(place / FUSED, place / PLAIN, place / CASES, rules=RULES)
        known[place.name] = contest.to_dict("fused", "original")
        partial = folder / f".{RESULTS}.partial"
        partial.write_text(json.dumps(known, indent=1), encoding="utf-8")
        partial.replace(folder / RESULTS)
        print(f"{place.name}: {contest.ratio}, control {contest.control}: {contest.verdict}", flush=True)
    print("\n".join(table(known)))


def table(known: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Slowest first, then the sentence that counts."""
    rows = sorted(known.items(), key=lambda item: -item[1]["ratio"]["estimate"])
    lines = ["| pair | fused / un-fused | control | verdict |", "|---|---|---|---|"]
    for name, contest in rows:
        lines.append(
            f"| {name} | {interval(contest['ratio'])} | {interval(contest['control'])} | {contest['verdict']} |"
        )
    count = Counter(contest["verdict"] for _, contest in rows)
    said = ", ".join(f"{number} {verdict}" for verdict, number in sorted(count.items()))
    return [*lines, "", f"{len(rows)} pairs: {said}"]


def main() -> None:
    """Prepare or measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--folder", type=Path, default=Path("never_slower"))
    parser.add_argument("--prepare", action="store_true")
    parser.add_argument("--measure", action="store_true")
    parser.add_argument("--minutes", type=float, default=12.0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.folder.mkdir(parents=True, exist_ok=True)
    if options.prepare:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the exporter's own
            prepare(options.folder, set(options.names))
    if options.measure:
        measure(options.folder, set(options.names), options.minutes)


if __name__ == "__main__":
    main()
