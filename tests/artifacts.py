"""Records of artifacts for manifests that tests write."""

from __future__ import annotations

from typing import Any


def onnx(precision: str = "float32", *, name: str = "model", file: str = "model.onnx", **limits: Any) -> dict[str, Any]:
    """One ONNX file; ``limits`` are what it is held to."""
    tolerance = {"normalized_limit": 4.0, **limits}
    return {"name": name, "kind": "onnx", "files": [file], "precision": precision, "tolerance": tolerance}
