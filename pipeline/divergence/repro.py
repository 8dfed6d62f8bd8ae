"""Write the smallest part of a graph that shows where two runs part, with its inputs and a script of ten lines."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import onnx

from attn_export.deploy_tests.backends import DEFAULT, traits
from attn_export.deploy_tests.parity.compare import FLOOR
from attn_export.errors import ConversionError, WriteError
from attn_export.export.graph.cut import declared, extract, reads
from attn_export.export.onnx.save import save
from attn_export.pipeline.divergence.bisect import relative_error
from attn_export.pipeline.divergence.divergence import Divergence
from attn_export.pipeline.divergence.runs import Variant, meaning, probing
from attn_export.types import Array, Feeds

#: What is written.
FILES = ("part.onnx", "part.onnx.data", "inputs.npz", "repro.py")


def write_repro(
    model: onnx.ModelProto,
    divergence: Divergence,
    feeds: Feeds,
    folder: Path,
    reference: Variant | None = None,
    backend: str = DEFAULT,
) -> int:
    """Write ``part.onnx``, ``inputs.npz`` and ``repro.py`` to ``folder``; return how many nodes the part has.

    The inputs are those that ``reference`` (by default the graph itself) has in float64, rounded to the types the graph
    declares; ``expected`` is the reference on them.

    Raises:
        ConversionError: no part can be fed from what the reference has.
        WriteError: the folder cannot be written.
    """
    side = reference or Variant("the graph", model)
    right, made = meaning(side, feeds), side.names | set(feeds)
    first = divergence.window[0]
    size = divergence.position + 1 - first
    while True:
        positions = _ancestors(model, range(max(0, first), divergence.position + 1), divergence.tensor)
        wanted = reads(model, positions)
        if all(name in made for name in wanted):
            inner = [name for name in wanted if name not in feeds]
            values = {**feeds, **dict(right([*inner, divergence.tensor]))}
            expected = values[divergence.tensor]
            inputs = {name: values[name].astype(declared(model, name)) for name in wanted}
            part = extract(model, positions, inputs, [divergence.tensor])
            if _shows(part, inputs, expected, divergence, backend) or first <= 0:
                break
        if first <= 0:
            raise ConversionError(f"no part of the graph before {divergence.tensor!r} can be fed from its reference")
        first, size = divergence.position + 1 - 2 * size, 2 * size
    load, run = traits(backend).snippet or (line.format(backend=backend) for line in _THROUGH_US)
    script = _SCRIPT.format(load=load, run=run, bound=max(divergence.bound, FLOOR))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        save(part, folder / "part.onnx")
        np.savez(folder / "inputs.npz", **inputs, expected=expected)  # type: ignore[arg-type]  # ** as allow_pickle
        (folder / "repro.py").write_text(script, encoding="utf-8")
    except OSError as error:
        raise WriteError(f"cannot write to {folder}: {error.strerror or error}") from error
    return len(positions)


_SCRIPT = '''"""Run this part of the graph and compare it with its float64 reference."""
import sys
import numpy as np
{load}

inputs = dict(np.load("inputs.npz"))
expected = inputs.pop("expected")
{run}
error = np.linalg.norm(outputs[0] - expected) / np.linalg.norm(expected)
print(f"relative error {{error:.3e}}, bound {bound:.3e}")
sys.exit(int(not error <= {bound:.3e}))
'''
#: How a script runs the part on a backend that gives no ``snippet`` of its own: by ours.
_THROUGH_US = (
    "import pathlib; from attn_export.deploy_tests import backend, backends",
    'with backends.BACKENDS["{backend}"].open(pathlib.Path("part.onnx"), backend.Options()) as run:'
    " outputs = list(run(inputs).values())",
)


def _shows(part: onnx.ModelProto, inputs: Feeds, expected: Array, divergence: Divergence, backend: str) -> bool:
    with probing(part, backend, inputs) as probe:
        ((_, came),) = probe([divergence.tensor])
    return came.shape != expected.shape or not relative_error(came, expected) <= max(divergence.bound, FLOOR)


def _ancestors(model: onnx.ModelProto, positions: Iterable[int], tensor: str) -> list[int]:
    """Those of the positions that ``tensor`` depends on."""
    live, kept = {tensor}, []
    for position in reversed(list(positions)):
        node = model.graph.node[position]
        if live & set(node.output):
            kept.append(position)
            live |= set(node.input)
    return kept[::-1]
