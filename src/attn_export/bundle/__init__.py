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

from attn_export.bundle.cases import case_of, idle, loose, norm, read_cases, refuse_loose, write_cases
from attn_export.bundle.format import (
    CASES,
    DOUBLE_DB,
    FLOOR,
    LOCAL,
    MAIN,
    MANIFEST,
    MODEL,
    ORIGINAL,
    PAGE,
    REPORT,
    SCHEMA_VERSION,
    SHARE,
    SIGNATURE,
    SNR,
    TOLERANCE,
    TRIVIAL,
    UNEVEN,
    VARIES,
    Artifact,
    Bundle,
    Case,
    Selection,
)
from attn_export.bundle.reader import digest, parse_digest, read, report, report_file, unchanged
from attn_export.bundle.writer import may_write, once, rewriting, write_json, write_manifest, writing
from attn_export.untrusted.files import sha256

__all__ = [
    "CASES",
    "DOUBLE_DB",
    "FLOOR",
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
    "Artifact",
    "Bundle",
    "Case",
    "Selection",
    "case_of",
    "digest",
    "idle",
    "loose",
    "may_write",
    "norm",
    "once",
    "parse_digest",
    "read",
    "read_cases",
    "refuse_loose",
    "report",
    "report_file",
    "rewriting",
    "sha256",
    "unchanged",
    "write_cases",
    "write_json",
    "write_manifest",
    "writing",
]
