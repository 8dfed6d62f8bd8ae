"""The process that MNN's converter runs in: it prints what is wrong, and gives no code for it.

python -m attn_export.export.converters.mnn.worker MODEL.onnx FILE.mnn
"""

from __future__ import annotations

import sys


def main(model: str, written: str) -> None:
    """Convert ``model`` into the file ``written``, which is not there where it fails."""
    # The compiled half alone: the package's own command reports to its maker.
    import _tools

    _tools.mnnconvert(["mnnconvert", "-f", "ONNX", "--modelFile", model, "--MNNModel", written, "--bizCode", "model"])


if __name__ == "__main__":
    main(*sys.argv[1:])
