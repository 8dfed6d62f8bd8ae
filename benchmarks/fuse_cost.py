"""What `attn-export fuse` takes on files of many nodes and of many bytes, beside onnxsim and onnxslim.

    python -m benchmarks.fuse_cost [--slim ENV/bin/python] [--only 1000 …]

Each run is a process of its own, from its start to the written file. CPU seconds are those of the process and its
children; memory is the most that any one of them held, and how many times the file that is. onnxslim is no dependency:
``--slim`` names an interpreter that has it.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

#: Nodes of the files, and the channels of each: many nodes of little, and a file of 200 MB.
FILES = {"1000": (1000, 8), "10000": (10000, 8), "200MB": (150, 448)}
#: Nodes of one block: a 3×3 and a 1×1 with their norms, their sum, a ReLU.
BLOCK = 6


def write(path: Path, nodes: int, channels: int) -> None:
    """Write a network of such blocks, one after another."""
    random = np.random.default_rng(0)
    made, tensors, last = list[onnx.NodeProto](), list[TensorProto](), "x"

    def weight(name: str, *shape: int, low: float = -0.1, high: float = 0.1) -> str:
        tensors.append(numpy_helper.from_array(random.uniform(low, high, shape).astype(np.float32), name))
        return name

    for n in range(max(1, nodes // BLOCK)):
        for kind, size in (("square", 3), ("point", 1)):
            name = f"{kind}{n}"
            kernel = weight(f"{name}.w", channels, channels, size, size)
            norm = [weight(f"{name}.{part}", channels, low=0.5, high=1.5) for part in ("gamma", "beta", "mean", "var")]
            made.append(helper.make_node("Conv", [last, kernel], [f"{name}.c"], name, pads=[size // 2] * 4))
            made.append(helper.make_node("BatchNormalization", [f"{name}.c", *norm], [name], f"{name}.norm"))
        made.append(helper.make_node("Add", [f"square{n}", f"point{n}"], [f"sum{n}"], f"sum{n}"))
        made.append(helper.make_node("Relu", [f"sum{n}"], [f"relu{n}"], f"relu{n}"))
        last = f"relu{n}"
    made.append(helper.make_node("GlobalAveragePool", [last], ["y"]))
    ports = (helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, channels, s, s]) for n, s in (("x", 8), ("y", 1)))
    graph = helper.make_graph(made, "made", [next(ports)], [next(ports)], tensors)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), path)


def measured(command: list[str]) -> tuple[int, float, float, int]:
    """Run a command: its exit code, seconds of the wall clock and of the processor, and bytes at most."""
    script = (
        "import resource, subprocess, sys; code = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL).returncode;"
        " used = resource.getrusage(resource.RUSAGE_CHILDREN);"
        " print(code, used.ru_utime + used.ru_stime, used.ru_maxrss)"
    )
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-c", script, *command], capture_output=True, text=True, check=True)
    code, spent, most = done.stdout.split()
    # Of Linux, which counts in kilobytes.
    return int(code), time.monotonic() - began, float(spent), int(most) * (1024 if resource.RUSAGE_SELF == 0 else 1)


def commands(source: Path, slim: str) -> dict[str, list[str]]:
    """Give by name what is compared, each writing a file beside the one that it takes."""
    simplify = "import sys, onnx, onnxsim; onnx.save(onnxsim.simplify(onnx.load(sys.argv[1]))[0], sys.argv[2])"
    slimming = "import sys, onnx, onnxslim; onnx.save(onnxslim.slim(sys.argv[1]), sys.argv[2])"
    found = {
        "attn-export fuse": [sys.executable, "-m", "attn_export", "fuse", str(source), "-o"],
        "onnxsim": [sys.executable, "-c", simplify, str(source)],
    }
    if slim:
        found["onnxslim"] = [slim, "-c", slimming, str(source)]
    return {name: [*words, str(source.with_name(f"{name.split()[0]}.onnx"))] for name, words in found.items()}


def main() -> int:
    """Write the files, run everything on each, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slim", default="", metavar="PYTHON")
    parser.add_argument("--only", nargs="*", choices=sorted(FILES), default=list(FILES))
    options = parser.parse_args()
    failed = False
    for name in options.only:
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder, "source.onnx")
            write(source, *FILES[name])
            size = source.stat().st_size
            print(f"{name}: {size / 1e6:.1f} MB", flush=True)
            for what, words in commands(source, options.slim).items():
                code, wall, spent, most = measured(words)
                failed |= bool(code)
                nodes = len(onnx.load(words[-1]).graph.node) if not code else 0
                times = f"{most / size:.1f} times the file"
                print(
                    f"  {what:<18} exit {code}, {wall:6.1f} s, {spent:6.1f} CPU s, {most / 1e6:6.0f} MB ({times}),"
                    f" {nodes} nodes",
                    flush=True,
                )
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
