"""The bundle, schema version 3: a folder that holds deployed models and everything needed to prove it again.

    model.onnx          what is deployed (plus model.onnx.data when large); other artifacts may lie beside it
    original.onnx       the model before any stage changed it, unless it is large or was left out
    cases.npz           inputs, and for each the float64 reference and the error of PyTorch float32 against it
    report.json         parity and latency as measured, raw samples included
    report.html         the same for people
    manifest.json       schema, subject, stages, input and output contract, tolerance, environment, sha256 of each file
    manifest.json.sig   a signature of the manifest, if somebody signed it

It is written whole or not at all, and validated on reading: known schema, every file present with its hash, no file
that is not listed, no link, no figure that no honest bundle has. Nothing in it is ever unpickled. Since the manifest
holds the hash of everything else, the manifest's own hash is the bundle's digest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from attn_export.bundle.cases import case_of as case_of
    from attn_export.bundle.cases import idle as idle
    from attn_export.bundle.cases import loose as loose
    from attn_export.bundle.cases import norm as norm
    from attn_export.bundle.cases import read_cases as read_cases
    from attn_export.bundle.cases import refuse_loose as refuse_loose
    from attn_export.bundle.cases import write_cases as write_cases
    from attn_export.bundle.format import CASES as CASES
    from attn_export.bundle.format import DOUBLE_DB as DOUBLE_DB
    from attn_export.bundle.format import FLOOR as FLOOR
    from attn_export.bundle.format import HALVES as HALVES
    from attn_export.bundle.format import LOCAL as LOCAL
    from attn_export.bundle.format import MAIN as MAIN
    from attn_export.bundle.format import MANIFEST as MANIFEST
    from attn_export.bundle.format import MODEL as MODEL
    from attn_export.bundle.format import ORIGINAL as ORIGINAL
    from attn_export.bundle.format import PAGE as PAGE
    from attn_export.bundle.format import REPORT as REPORT
    from attn_export.bundle.format import SCHEMA_VERSION as SCHEMA_VERSION
    from attn_export.bundle.format import SHARE as SHARE
    from attn_export.bundle.format import SIGNATURE as SIGNATURE
    from attn_export.bundle.format import SNR as SNR
    from attn_export.bundle.format import TOLERANCE as TOLERANCE
    from attn_export.bundle.format import TRIVIAL as TRIVIAL
    from attn_export.bundle.format import UNEVEN as UNEVEN
    from attn_export.bundle.format import VARIES as VARIES
    from attn_export.bundle.format import VARYING_DB as VARYING_DB
    from attn_export.bundle.format import Artifact as Artifact
    from attn_export.bundle.format import Bundle as Bundle
    from attn_export.bundle.format import Case as Case
    from attn_export.bundle.format import Selection as Selection
    from attn_export.bundle.reader import digest as digest
    from attn_export.bundle.reader import parse_digest as parse_digest
    from attn_export.bundle.reader import read as read
    from attn_export.bundle.reader import report as report
    from attn_export.bundle.reader import report_file as report_file
    from attn_export.bundle.reader import unchanged as unchanged
    from attn_export.bundle.writer import may_write as may_write
    from attn_export.bundle.writer import once as once
    from attn_export.bundle.writer import place_of as place_of
    from attn_export.bundle.writer import rewriting as rewriting
    from attn_export.bundle.writer import write_json as write_json
    from attn_export.bundle.writer import write_manifest as write_manifest
    from attn_export.bundle.writer import writing as writing
    from attn_export.untrusted.files import sha256 as sha256

#: What is imported when it is asked for: a command that only puts a folder in its place need not load NumPy.
_MODULES = {
    "bundle.cases": (
        "case_of",
        "idle",
        "loose",
        "norm",
        "read_cases",
        "refuse_loose",
        "write_cases",
    ),
    "bundle.format": (
        "CASES",
        "DOUBLE_DB",
        "FLOOR",
        "HALVES",
        "LOCAL",
        "MAIN",
        "MANIFEST",
        "MODEL",
        "ORIGINAL",
        "PAGE",
        "REPORT",
        "SCHEMA_VERSION",
        "SHARE",
        "SIGNATURE",
        "SNR",
        "TOLERANCE",
        "TRIVIAL",
        "UNEVEN",
        "VARIES",
        "VARYING_DB",
        "Artifact",
        "Bundle",
        "Case",
        "Selection",
    ),
    "bundle.reader": (
        "digest",
        "parse_digest",
        "read",
        "report",
        "report_file",
        "unchanged",
    ),
    "bundle.writer": (
        "may_write",
        "once",
        "place_of",
        "rewriting",
        "write_json",
        "write_manifest",
        "writing",
    ),
    "untrusted.files": ("sha256",),
}
_HOMES = {name: module for module, names in _MODULES.items() for name in names}

__all__ = sorted(_HOMES)  # noqa: PLE0605  # all are strings


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    value = getattr(importlib.import_module(f"attn_export.{_HOMES[name]}"), name)
    globals()[name] = value
    return value
