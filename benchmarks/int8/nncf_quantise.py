"""Quantise by NNCF as its documentation shows, in an environment of its own: MODEL FEEDS.npz INTO.

It imports nothing of this project. ``NNCF_CI`` keeps it from reporting to its maker.
"""

from __future__ import annotations

import os
import sys

os.environ["NNCF_CI"] = "true"


def main(model: str, feeds: str, into: str) -> None:
    """Write the model in int8; ``feeds`` holds one array of all calibration inputs, by its input's name."""
    import nncf  # type: ignore[import-not-found, unused-ignore]
    import numpy as np
    import onnx

    kept = np.load(feeds)
    cases = [{name: kept[name][index] for name in kept.files} for index in range(len(kept[kept.files[0]]))]
    source = onnx.load(model)
    made = nncf.quantize(source, nncf.Dataset(cases), subset_size=len(cases), preset=nncf.QuantizationPreset.MIXED)
    onnx.save(made, into)


if __name__ == "__main__":
    main(*sys.argv[1:])
