"""Fuse one file of more than 2 GB with the command itself: seconds, peak memory, and what came. Deletes what it made.

    python -m benchmarks.large [--blocks 15] [--folder F]

Each block has a 3×3 and a 1×1 of 2,048 channels with their batch norms: 168 MB, in one external file. Wants 16 GB of
memory, and twice the file on disk.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

CHANNELS = 2048


def write(folder: Path, blocks: int) -> Path:
    """Write the file, its large weights one after another: never all in memory."""
    random = np.random.default_rng(0)
    base = random.standard_normal((CHANNELS, CHANNELS, 3, 3), dtype=np.float32) / np.float32(200)
    nodes, tensors, last = list[onnx.NodeProto](), list[TensorProto](), "x"
    with (folder / "large.bin").open("wb") as data:
        for n in range(blocks):
            for kind, kernel, pad in (("square", base, 1), ("point", base[:, :, :1, :1], 0)):
                name, weight = f"{kind}{n}", np.ascontiguousarray(np.roll(kernel, n, 0))
                tensor = TensorProto(name=f"{name}.w", data_type=TensorProto.FLOAT, dims=weight.shape)
                tensor.data_location = TensorProto.EXTERNAL
                place = {"location": "large.bin", "offset": str(data.tell()), "length": str(weight.nbytes)}
                for key, value in place.items():
                    tensor.external_data.add(key=key, value=value)
                data.write(weight.tobytes())
                tensors.append(tensor)
                norm = [f"{name}.{part}" for part in ("gamma", "beta", "mean", "variance")]
                for part in norm:
                    numbers = random.uniform(0.5, 1.5, CHANNELS).astype(np.float32)
                    tensors.append(numpy_helper.from_array(numbers, part))
                nodes.append(helper.make_node("Conv", [last, tensor.name], [f"{name}.c"], name, pads=[pad] * 4))
                nodes.append(helper.make_node("BatchNormalization", [f"{name}.c", *norm], [name], f"{name}.norm"))
            nodes.append(helper.make_node("Add", [f"square{n}", f"point{n}"], [f"sum{n}"], f"sum{n}"))
            nodes.append(helper.make_node("Relu", [f"sum{n}"], [f"relu{n}"], f"relu{n}"))
            last = f"relu{n}"
    nodes.append(helper.make_node("GlobalAveragePool", [last], ["y"]))
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, CHANNELS, s, s]) for n, s in (("x", 4), ("y", 1)))
    graph = helper.make_graph(nodes, "large", [x], [y], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    onnx.save(model, folder / "large.onnx")
    return folder / "large.onnx"


def main() -> int:
    """Write, fuse, say what it took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", type=int, default=15)
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as place:
        file = write(Path(place), options.blocks)
        size, output = (Path(place) / "large.bin").stat().st_size, Path(place) / "fused.onnx"
        start = time.monotonic()
        command = [sys.executable, "-m", "attn_export", "fuse", str(file), "-o", str(output), "--json"]
        done = subprocess.run(command, stdout=subprocess.PIPE, check=False)
        spent = resource.getrusage(resource.RUSAGE_CHILDREN)
        print(
            f"{size / 1e9:.2f} GB: exit {done.returncode} after {time.monotonic() - start:.0f} s,"
            f" {spent.ru_utime + spent.ru_stime:.0f} s of CPU, at most {spent.ru_maxrss / 1e6:.1f} GB of memory"
        )
        if done.returncode:
            return 1
        came = json.loads(done.stdout)
        kinds = [node.op_type for node in onnx.load(output, load_external_data=False).graph.node]
        written = {path.name: f"{path.stat().st_size / 1e9:.2f} GB" for path in sorted(Path(place).glob("fused*"))}
        print(f"{len(came['sites'])} sites, worst error {came['certificate']['worst']:.1e}; {written}")
        onnx.checker.check_model(str(output))
        return 0 if kinds.count("Conv") == options.blocks and "BatchNormalization" not in kinds else 1


if __name__ == "__main__":
    sys.exit(main())
