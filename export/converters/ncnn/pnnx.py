"""Run pnnx, and read what it says: it ends with exit code 0 whatever it could not do.

The wheel holds a program and a script around it that wants torch; only the program is run.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx

from attn_export.errors import ExportError
from attn_export.process import children
from attn_export.types import TensorSpec
from attn_export.untrusted.text import one_line

#: Seconds that it may take; a large network takes one.
LIMIT = 300.0
#: What it calls the element types of inputs.
TYPES = {
    "float32": "f32",
    "float16": "f16",
    "int64": "i64",
    "int32": "i32",
    "int8": "i8",
    "uint8": "u8",
    "bool": "bool",
}
#: What it says of a tensor without a batch.
NO_BATCH = 233
#: Lines about what was asked for, what is being done, how long it took, and a table of operators.
_TALK = re.compile(
    r"\w+ ?= ?.*|\w+ = |#+ pass_.*|[\w ]+ \.\.\. .*ms|\s*[\d.]+ms|[│┌├└].*|get inputshape from traced inputs"
    r"|model has dynamic dimension size, but no inputshape2 specified|pnnx will optimize model with static input shape"
)
#: In the script that it writes: which axis of which tensor is the batch.
_GIVEN = re.compile(r"ncnn\.Mat\(in(\d+)(?:\.\w+\([^()]*\))*\.numpy\(\)(?:, batch_index=(\d+))?\)")
_TAKEN = re.compile(r"out(\d+)\.numpy\((?:batch_index=(\d+))?\)")


@dataclass(frozen=True)
class Layer:
    """A line of a ``.param`` file: the layer's type and its name."""

    type: str
    name: str


def program() -> Path | None:
    """Find the program in the wheel; None where the wheel is not installed."""
    found = importlib.util.find_spec("pnnx")
    place = found.submodule_search_locations if found else None
    return Path(next(iter(place)), "pnnx") if place else None


def version() -> str:
    """Name it, with the version of its wheel."""
    return f"pnnx {importlib.metadata.version('pnnx')}"


def run(folder: Path, model: str, shapes: str, *, half: bool) -> str:
    """Convert the ONNX file ``model`` in ``folder``, and give what was said.

    Raises:
        ExportError: it did not end, died, or ended with another exit code than 0.
    """
    tool = program()
    assert tool is not None
    words = [str(tool), model, f"inputshape={shapes}", f"fp16={int(half)}"]
    try:
        done = subprocess.run(
            words, cwd=folder, capture_output=True, stdin=subprocess.DEVNULL, timeout=LIMIT, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise ExportError(f"{version()} did not end within {LIMIT:g} s; convert a smaller model") from error
    said = (done.stdout + b"\n" + done.stderr).decode("utf-8", "replace")
    if done.returncode:
        told = "; ".join(complaints(said)) or "it said nothing"
        how = children.ending(done.returncode) if done.returncode < 0 else f"exit code {done.returncode}"
        raise ExportError(f"{version()} does not take the model ({how}): {told[-400:]}")
    return said


def complaints(said: str) -> list[str]:
    r"""Give the lines that are no talk of its own.

    >>> complaints("fp16 = 0\n############# pass_level1\nsolve ...   0.02ms\nignore Pad pad_0 param mode=3\n")
    ['ignore Pad pad_0 param mode=3']
    """
    lines = [one_line(re.sub(r"\x1b\[[0-9;]*m", "", line)) for line in said.splitlines()]
    return [line for line in lines if line and not _TALK.fullmatch(line)]


def shapes(ports: Sequence[TensorSpec], sizes: Mapping[str, int]) -> str:
    """Write the inputs' shapes as it wants them.

    >>> shapes([TensorSpec("x", "float32", ("b", 3))], {"b": 1})
    '[1,3]f32'

    Raises:
        ExportError: it has no word for an element type.
    """
    words = []
    for port in ports:
        if port.dtype not in TYPES:
            raise ExportError(f"{version()} takes {', '.join(TYPES)}, and the input {port.name} is {port.dtype}")
        shape = ",".join(str(sizes.get(str(size), size)) for size in port.shape)
        words.append(f"[{shape}]{TYPES[port.dtype]}")
    return ",".join(words)


def batches(script: str) -> tuple[dict[int, int | None], dict[int, int | None]]:
    r"""Read from the script that it writes which axis of each input and output ncnn does not count: the batch.

    >>> batches("ncnn.Mat(in0.numpy(), batch_index=0).clone()\nout0.numpy(batch_index=233)")
    ({0: 0}, {0: None})
    """
    return _axes(_GIVEN, script), _axes(_TAKEN, script)


def _axes(pattern: re.Pattern[str], script: str) -> dict[int, int | None]:
    found = pattern.findall(script)
    return {int(index): None if axis in ("", str(NO_BATCH)) else int(axis) for index, axis in found}


def layers(param: str) -> list[Layer]:
    """Read the types and names of a ``.param`` file."""
    rows = [line.split() for line in param.splitlines()[2:]]
    return [Layer(row[0], row[1]) for row in rows if len(row) > 3]


def behind(types: Iterable[str], rows: Sequence[Layer], model: onnx.ModelProto) -> list[str]:
    """Name the nodes behind layers of the given types.

    A layer that pnnx left as it came bears the operator's name, and is the as many-th of its kind as the node.
    """
    found = []
    for kind in sorted(types):
        known = [row for row in rows if row.type == kind]
        nodes = [node for node in model.graph.node if node.op_type.lower() == kind.rpartition(".")[2].lower()]
        named = [f"{node.op_type} {node.name or node.output[0]!r}" for node in nodes]
        if len(named) == len(known):
            found += named
            continue
        made = f", made of one of {', '.join(named[:6])}" if named else ""
        found += [f"{kind} {row.name!r}{made}" for row in known[:3]]
    return found
