"""Load weights under the names of timm, torchvision, transformers and the authors into the catalogue's blocks.

    ENV/bin/python -m benchmarks.published_blocks [--authors DIR] [--only NAME] [--rows FILE]

ENV has timm and PyTorch beside this checkout; DIR holds checkouts of the authors' repositories, a folder
``owner+name`` each, which are read for this comparison alone. Their modules are given drawn weights, their state
dicts are read as a user's file is, and the outputs are compared in float64.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from attn_export.export.weights import built
from attn_export.mechanisms import MECHANISMS
from attn_export.mechanisms.spec import Preset
from benchmarks.published import PAIRS, authors, drawn
from benchmarks.published.pair import LIMIT, Pair, far

#: Where theirs is computed in float32.
NARROW = 1e-6


@dataclass(frozen=True)
class Result:
    """What came of a pair.

    Attributes:
        far: the largest difference of an output, relative to the largest output.
        golden: what a test needs to see the same again.
    """

    far: float
    golden: dict[str, Any]


def compare(pair: Pair) -> Result:
    """Fill their module with drawn weights, read its state dict as a user's file is read, and run both.

    Raises:
        CheckpointError: the names do not become ours.
    """
    torch.manual_seed(0)
    theirs = pair.module().double().eval()
    own = theirs.state_dict()
    fixed = {n: v for n, v in own.items() if not v.is_floating_point() or (pair.fixed and re.search(pair.fixed, n))}
    fixed = {n: v for n, v in fixed.items() if not n.endswith("num_batches_tracked")}
    shapes = {n: tuple(v.shape) for n, v in own.items() if n not in fixed and v.is_floating_point()}
    theirs.load_state_dict(drawn.state(shapes) | fixed, strict=False)
    if pair.renamed:
        parts = theirs.state_dict()
        shapes = {pair.renamed(n): s for n, s in shapes.items()}
        state = {pair.renamed(n): parts[n] for n in parts if not n.endswith("num_batches_tracked")}
    else:
        state = theirs.state_dict()
    one = built.build(
        pair.entry,
        MECHANISMS[pair.entry],
        Preset(dict(pair.arguments)),
        state,
        variant=pair.asked,
        dtype=torch.float64,
    )
    assert one.chosen.name == pair.source, f"read as {one.chosen.name or 'our own'}, expected {pair.source}"
    inputs = drawn.inputs(pair.shapes)
    with torch.no_grad():
        came = one.module.eval()(*inputs)
        reference = pair.call(theirs, *inputs)
    assert came.shape == reference.shape, (came.shape, reference.shape)
    golden = {
        "entry": pair.entry,
        "source": pair.source,
        "what": pair.what,
        "asked": pair.asked,
        "arguments": dict(pair.arguments),
        "state": {n: list(s) for n, s in shapes.items()},
        "fixed": {pair.renamed(n) if pair.renamed else n: v.tolist() for n, v in fixed.items()},
        "inputs": [list(shape) for shape in pair.shapes],
        "output": drawn.probes(reference),
    }
    return Result(far(came, reference), golden)


def _found(only: str) -> Iterator[tuple[Pair, Result]]:
    for pair in PAIRS:
        if only and only not in (pair.entry, pair.source):
            continue
        try:
            found = compare(pair)
        except Exception as error:  # of all of them each is tried; the exit code says that one failed
            print(f"{pair.entry} {pair.source} {pair.what}: {type(error).__name__}: {error}", flush=True)
            found = Result(float("inf"), {})
        else:
            print(f"{pair.entry} {pair.source} {pair.what}: {found.far:.1e}", flush=True)
        yield pair, found


def main() -> None:
    """Compare them all; the exit code is 1 where one differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--authors", type=Path, help="where the authors' repositories lie")
    parser.add_argument("--only", default="", help="one entry, or one source")
    parser.add_argument("--rows", type=Path, help="where to write the rows, for the page")
    parser.add_argument("--goldens", type=Path, help="where to write what the tests see again")
    asked = parser.parse_args()
    authors.FOLDER = asked.authors
    found = list(_found(asked.only))
    if asked.rows:
        rows = [(pair.entry, pair.source, pair.what, one.far) for pair, one in found]
        asked.rows.write_text(json.dumps(rows, indent=1), encoding="utf-8")
    if asked.goldens:
        lines = ",\n".join(json.dumps(one.golden, separators=(",", ":")) for _, one in found)
        asked.goldens.write_text(f"[\n{lines}\n]\n", encoding="utf-8")
    sys.exit(any(one.far > (NARROW if pair.narrow else LIMIT) for pair, one in found))


if __name__ == "__main__":
    main()
