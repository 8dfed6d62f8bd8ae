"""``verify --data``: prove a bundle on inputs it has never seen, as far as this machine can tell what is right.

    stored     the very files the bundle was made with: their inputs are made again, must be those that are stored bit
               for bit, and are held against the stored reference, the original module in float64
    original   other files, where onnx and torch are installed: against the model before any stage changed it, which the
               bundle holds, evaluated in float64
    meaning    the same where the bundle does not hold it: against the deployed graph in float64; that this graph is the
               original module was proven when the bundle was written, on its own cases
    agreement  other files, on a bare device: against the default backend with every optimisation off; another float32
               evaluation of the same graph and no reference, so an error that both make is not seen

    fresh      inputs drawn anew (``--fresh``), against that model before any stage as well

Each case is judged by the same bound; what it is worth is the level, which is said with the verdict.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from attn_export.bundle import FLOOR, Bundle, Case, refuse_loose
from attn_export.deploy_tests import backends
from attn_export.deploy_tests.backend import Options
from attn_export.deploy_tests.data import inputs as data
from attn_export.deploy_tests.data.images import Preprocess
from attn_export.errors import BackendError, BundleError, GateError, LoadError, UsageError
from attn_export.types import Array, Feeds

STORED, ORIGINAL, MEANING, AGREEMENT, FRESH = "stored", "original", "meaning", "agreement", "fresh"

SENTENCES: Mapping[str, str] = {
    STORED: "the files it was made with, against the original module in float64",
    ORIGINAL: "new data, against the model before any stage changed it, in float64",
    FRESH: "inputs drawn anew, against the model before any stage changed it, in float64",
    MEANING: "new data, against the deployed graph in float64",
    AGREEMENT: f"new data, against {backends.DEFAULT} without optimisations: agreement, and no reference (that takes"
    " torch and onnx)",
}


@dataclass(frozen=True)
class OwnData:
    """Cases made from the user's files, by what they are held against."""

    cases: Mapping[str, tuple[Case, ...]]
    preprocess: Preprocess | None
    left: int


#: Cases of a model on inputs, with their float64 reference; what has torch and onnx can make them.
Evaluate = Callable[[Path, Mapping[str, Feeds]], Iterable[Case]]


def read(whole: Bundle, path: Path, declared: Preprocess | None = None, *, evaluate: Evaluate | None = None) -> OwnData:
    """Make cases of ``path`` with the preprocessing that the bundle recorded, or else with the one declared.

    ``evaluate`` gives the deployed graph's meaning in float64, where this machine can.

    Raises:
        LoadError: a file cannot be read, or does not fit the model's inputs.
        UsageError: there are images, and no preprocessing is known; or the one declared is not the one recorded.
        GateError: a file that the bundle was made with gives another input here.
        InconclusiveError: the float32 error on them is so large that nothing can be said.
    """
    if not path.exists():
        raise LoadError(f"{path} does not exist; expected a .npy, .npz or image file, or a folder of such")
    recorded: Mapping[str, Any] = whole.manifest.get("data") or {}
    if not isinstance(recorded, Mapping):
        raise BundleError(f"expected what the bundle's data was made of, got {type(recorded).__name__}")
    known = Preprocess.of(recorded["preprocess"]) if recorded.get("preprocess") else None
    if known and declared and known != declared:
        raise UsageError(f"the bundle was made with {known}; --preprocess says {declared}: leave it out")
    found = data.read_inputs(path, whole.inputs, known or declared)
    hashes = recorded.get("files") or {}
    if not isinstance(hashes, Mapping):
        raise BundleError(f"expected the hashes of files by case in the bundle's manifest, got {type(hashes).__name__}")
    stored = {case.name: case for case in whole.cases}
    old: list[Case] = []
    new: dict[str, Feeds] = {}
    for name, feeds in found.feeds.items():
        if name in stored and hashes.get(name) == found.files[name]:
            _same(stored[name], feeds)
            old.append(replace(stored[name], inputs=feeds))
        else:
            new[name] = feeds
    cases: dict[str, tuple[Case, ...]] = {STORED: tuple(old)} if old else {}
    if new and evaluate is not None:
        level, model = (MEANING, whole.model) if whole.original is None else (ORIGINAL, whole.original)
        cases[level] = tuple(evaluate(model, new))
    elif new:
        cases[AGREEMENT] = tuple(_agreements(whole.model, new))
    for made in cases.values():
        refuse_loose(made)
    return OwnData(cases, found.preprocess, found.left)


def _same(case: Case, feeds: Feeds) -> None:
    for name, want in case.inputs.items():
        if not np.array_equal(want, feeds[name]):
            far = float(np.abs(want.astype(np.float64) - feeds[name]).max()) if want.shape == feeds[name].shape else 0.0
            raise GateError(
                f"'{case.name}' is the file that the bundle was made with, and {name} differs here by {far:.3g}:"
                " this machine decodes it differently (another Pillow or libjpeg?); deploy decoded arrays instead"
            )


def _agreements(model: Path, feeds: Mapping[str, Feeds], backend: str = backends.DEFAULT) -> Iterator[Case]:
    """Run without optimisations; the float32 error is not known, so only the floor is granted, once for each run."""
    if not backends.traits(backend).can_skip_optimization:
        raise BackendError(f"{backend} always optimises, so nothing independent can be compared with; install torch")
    with backends.opened(backend, model, Options(optimize=False)) as run:
        for name, inputs in feeds.items():
            outputs = run(inputs)
            wide = {
                key: value.astype(np.float64) if value.dtype.kind == "f" else value for key, value in outputs.items()
            }
            yield Case(name, inputs, wide, {key: 2 * FLOOR * _norm(value) for key, value in wide.items()})


def _float64(values: Array) -> Array:
    return values.astype(np.float64) if values.dtype.kind == "f" else values


def _norm(values: Array) -> float:
    return float(np.linalg.norm(values.astype(np.float64).ravel()))
