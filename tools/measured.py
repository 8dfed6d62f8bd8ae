"""What was measured of the catalogue, in one file that the pages and ``show`` are made from.

Node counts and parity come from a sweep; latency from a separate pass over the bundles that it left, so that it can
be taken on a quiet machine:

    attn-export sweep --preset test --preset readme --no-variants -o FOLDER
    python -m benchmarks.catalogue_latency FOLDER
    python -m benchmarks.pages.catalogue FOLDER
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from attn_export.errors import LoadError

#: Beside this file, so that it comes with an installed package.
FILE = Path(__file__).with_name("measured.json")
SWEEP = "sweep.json"
LATENCY = "latency.json"
#: What every reader of a latency is told.
CAVEAT = "Absolute times do not transfer to another machine: measure there, with `attn-export bench`."


@dataclass(frozen=True)
class Timing:
    """Median wall time of one run and its 95 % interval, in milliseconds, and where it was taken."""

    p50: float
    low: float
    high: float
    runs: int
    machine: str

    def __str__(self) -> str:
        return f"{self.p50:.3g} ms [{self.low:.3g}, {self.high:.3g}]"


@dataclass(frozen=True)
class CatalogueFigures:
    """One run of a sweep.

    Attributes:
        nodes: of the final graph.
        k: worst parity error in units of what float32 is allowed, of at most ``bound``.
        model: sha256 of the model file; a latency belongs to this very file.
    """

    nodes: int
    k: float
    bound: float
    model: str = ""
    latency: Timing | None = None


@dataclass(frozen=True)
class Shown:
    """One line for people: ``graph`` is ``plain``, ``fused``, or both where fusing finds nothing."""

    preset: str
    graph: str
    nodes: str
    parity: str
    latency: str
    machine: str


def shown(name: str, presets: Iterable[str], measured: Mapping[str, CatalogueFigures]) -> list[Shown]:
    """Return the lines of one entry, by preset."""
    found = []
    for preset in presets:
        plain, fused = measured.get(f"{name}-{preset}"), measured.get(f"{name}-{preset}-fused")
        same = plain and fused and (plain.nodes, plain.k) == (fused.nodes, fused.k)
        for graph, run in (("plain = fused", plain),) if same else (("plain", plain), ("fused", fused)):
            if run:
                taken = run.latency
                found.append(
                    Shown(
                        preset,
                        graph,
                        str(run.nodes),
                        f"{run.k:.2f} of {run.bound:g}",
                        str(taken) if taken else "not taken",
                        taken.machine if taken else "",
                    )
                )
    return found


def kept(file: Path = FILE) -> dict[str, CatalogueFigures]:
    """Read what is on file, by label (``name-preset`` or ``name-preset-fused``); empty where nothing is."""
    if not file.is_file():
        return {}
    rows = json.loads(file.read_text(encoding="utf-8"))
    return {label: _read(row) for label, row in rows.items()}


def keep(measured: Mapping[str, CatalogueFigures], file: Path = FILE) -> None:
    """Write the file, one line a label."""
    lines = [f"{json.dumps(label)}: {json.dumps(asdict(measured[label]))}" for label in sorted(measured)]
    file.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


def merged(old: Mapping[str, CatalogueFigures], new: Mapping[str, CatalogueFigures]) -> dict[str, CatalogueFigures]:
    """Merge new runs over old ones; a latency on file stays while the model is the same file."""
    result = dict(old)
    for label, run in new.items():
        known = old.get(label)
        still = known is not None and run.latency is None and run.model and run.model == known.model
        result[label] = replace(run, latency=known.latency) if still and known else run
    return result


def from_sweep(folder: Path) -> dict[str, CatalogueFigures]:
    """Take what a sweep and the timing pass left in a folder; runs that did not pass are left out.

    Raises:
        LoadError: there is no such result.
    """
    file = folder / SWEEP
    try:
        rows = json.loads(file.read_text(encoding="utf-8"))["rows"]
        timed = timings(folder)
        made = [row for row in rows if row["status"] == "passed" and "@" not in row["label"]]  # not what devices gave
        return {row["label"]: _measured(row, folder, timed) for row in made}
    except (OSError, ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise LoadError(f"{file} is not a result of `attn-export sweep`: {type(error).__name__}: {error}") from error


def timings(folder: Path) -> dict[str, tuple[str, Timing]]:
    """Latencies that were taken of the bundles of a sweep, each with the sha256 of its model; by label."""
    file = folder / LATENCY
    if not file.is_file():
        return {}
    rows = json.loads(file.read_text(encoding="utf-8"))
    return {label: (row["model"], Timing(**row["latency"])) for label, row in rows.items()}


def model_of(folder: Path, label: str) -> str:
    """Read a model's sha256 from its bundle's manifest; empty where the bundle was not kept."""
    file = folder / label / "manifest.json"
    return str(json.loads(file.read_text(encoding="utf-8"))["files"]["model.onnx"]) if file.is_file() else ""


def _measured(row: Mapping[str, Any], folder: Path, timed: Mapping[str, tuple[str, Timing]]) -> CatalogueFigures:
    last, model = row["result"]["stages"][-1], model_of(folder, row["label"])
    of, latency = timed.get(row["label"], ("", None))
    return CatalogueFigures(
        last["nodes"], last["normalized_error"], last["normalized_limit"], model, latency if of == model else None
    )


def _read(row: Mapping[str, Any]) -> CatalogueFigures:
    return CatalogueFigures(**{**row, "latency": Timing(**row["latency"]) if row["latency"] else None})
