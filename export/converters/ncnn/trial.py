"""Load and run a file in ncnn, in a process of its own: what ncnn cannot load it runs all the same, and dies.

    python -m attn_export.export.converters.ncnn.trial PARAM BIN LAYOUT

What ncnn says stands on stderr; the last line of stdout holds the shapes of the outputs.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import numpy as np


def tried(param: str, weights: str, layout: dict[str, Any]) -> dict[str, Any]:
    """Run a file once on zeros."""
    import ncnn

    net = ncnn.Net()
    if net.load_param(param) or net.load_model(weights):
        return {"loaded": False}
    extractor = net.create_extractor()
    for index, port in enumerate(layout["inputs"]):
        dtype = np.float32 if port["dtype"] == "float32" else np.int32
        axis = {} if port["batch"] is None else {"batch_index": port["batch"]}
        extractor.input(f"in{index}", ncnn.Mat(np.zeros(port["shape"], dtype), **axis).clone())
    codes = [extractor.extract(f"out{index}")[0] for index in range(len(layout["outputs"]))]
    return {"loaded": True, "codes": codes, "inputs": net.input_names(), "outputs": net.output_names()}


if __name__ == "__main__":
    param, weights, layout = sys.argv[1:]
    print(json.dumps(tried(param, weights, json.loads(layout))))  # noqa: T201  # the answer to the parent process
