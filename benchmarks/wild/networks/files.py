"""Trained ONNX files that lie in a folder, unpacked from packages of PyPI: producer/…/name.onnx."""

from __future__ import annotations

from pathlib import Path

from benchmarks.wild.network import Network


def networks(folder: Path) -> tuple[Network, ...]:
    """Find the files; what they take is for the command line to find out."""
    files = sorted(folder.rglob("*.onnx"))
    return tuple(Network("files", f"{file.relative_to(folder).parts[0]}/{file.name}", file=file) for file in files)
