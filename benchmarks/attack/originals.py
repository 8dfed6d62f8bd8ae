"""Honest inputs that the harm is done to: made once by the product itself, small, and kept in a temporary folder.

net.py              a network with two branches, for weights and arguments
bundle/ fused/      bundles of it, one with latency and a comparison
kit/                a conformance kit of both
graphs/*.onnx       convolutions, attention, a loop, a function, a quantised one, one with weights beside it
weights/*           a safetensors file and torch files, new and old, bare and wrapped
data/*              arrays and images
signed/             a signed bundle with its key and its signers
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from attn_export import bundle
from attn_export.process import children

NET = '''"""A network with two branches."""
from torch import nn


class Net(nn.Module):
    def __init__(self, channels: int = 3, act: str = "relu", depth: int = 1, scale: float = 1.0, bias: bool = False):
        super().__init__()
        assert act in ("relu", "silu") and channels * depth < 10_000
        self.a = nn.Conv2d(2, channels, 3, padding=1, bias=bias)
        self.an = nn.BatchNorm2d(channels)
        self.b = nn.Conv2d(2, channels, 1, bias=False)
        self.bn = nn.BatchNorm2d(channels)
        self.scale = scale

    def forward(self, x):
        return (self.an(self.a(x)) + self.bn(self.b(x))).relu() * self.scale
'''
INPUT = "b=2x2x4x4"


def folder() -> Path:
    """Return the originals; made where they are not there yet for this very version of the code.

    Raises:
        RuntimeError: the product could not make them; what it said.
    """
    shelf = Path(tempfile.gettempdir(), f"attack-originals-{os.getuid()}")
    shelf.mkdir(mode=0o700, exist_ok=True)
    if shelf.is_symlink() or shelf.stat().st_uid != os.getuid():
        raise RuntimeError(f"{shelf} is somebody else's; remove it")
    root = shelf / _version()
    with (shelf / "lock").open("w", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two test workers may come at once
        if not root.is_dir():
            partial = shelf / "new"
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir()
            done = children.run("benchmarks.attack.originals", str(partial), env={"PYTHONPATH": _ROOT})
            if done.returncode:
                raise RuntimeError(f"the originals could not be made:\n{done.stdout[-1000:]}\n{done.stderr[-3000:]}")
            partial.rename(root)
    return root


#: The checkout: the benchmarks are no part of the package.
_ROOT = str(Path(__file__).resolve().parents[2])


def _version() -> str:
    """Return what changes with what is written into a bundle or made here."""
    from attn_export.pipeline import deploy

    files = [Path(__file__), Path(bundle.__file__), Path(deploy.__file__)]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:12]


def make(root: Path) -> None:
    """Make all of them in the folder ``root``."""
    os.chdir(root)
    Path("net.py").write_text(NET, encoding="utf-8")
    _bundles()
    graphs(Path("graphs"))
    weights(Path("weights"))
    arrays(Path("data"))
    signed(Path("signed"))


def _bundles() -> None:
    from attn_export.deploy_tests.conformance import kit
    from attn_export.deploy_tests.latency.comparison import Rules
    from attn_export.deploy_tests.latency.measure import Protocol
    from attn_export.export import sources
    from attn_export.export.source import SourceOptions
    from attn_export.pipeline import deploy
    from attn_export.pipeline.options import BuildOptions, DeployOptions
    from attn_export.pipeline.progress import Progress

    subject = sources.load(SourceOptions(text="net.py:Net", inputs=(INPUT,)))
    words = ("net.py:Net", "--input", INPUT)
    plain = DeployOptions(
        output=Path("bundle"), bench=False, mutants="none", command=(*words, "--no-bench", "--mutants", "none")
    )
    deploy.deploy(subject, plain, Progress())
    # Few rounds of few processes: the ratio is not what is looked at.
    protocol, rules = Protocol(0.0, duration=0.0, iterations=3), Rules(processes=2, rounds=2)
    fused = DeployOptions(
        output=Path("fused"), build=BuildOptions(fuse=True), protocol=protocol, rules=rules, command=(*words, "--fuse")
    )
    deploy.deploy(subject, fused, Progress())
    both = [Path("bundle"), Path("fused")]
    kit.write_kit(both, Path("kit"), backend="onnxruntime", duration=0.0, samples=3)


def _save(model: Any, file: Path) -> None:
    import onnx

    onnx.checker.check_model(model)
    onnx.save(model, file)


def graphs(folder: Path) -> None:
    """Write a handful of graphs that hold most of what a graph can hold, none larger than some kilobytes."""
    import numpy as np
    from onnx import TensorProto as T
    from onnx import helper as h
    from onnx import numpy_helper

    folder.mkdir()
    source = np.random.default_rng(0)

    def tensor(name: str, *shape: int) -> Any:
        return numpy_helper.from_array(source.normal(size=shape).astype(np.float32), name)

    def value(name: str, *shape: int | str, kind: int = T.FLOAT) -> Any:
        return h.make_tensor_value_info(name, kind, shape)

    def model(nodes: list[Any], inputs: list[Any], outputs: list[Any], constants: list[Any], **more: Any) -> Any:
        graph = h.make_graph(nodes, "g", inputs, outputs, constants)
        opsets = more.pop("opset_imports", [h.make_opsetid("", 18)])
        return h.make_model(graph, opset_imports=opsets, ir_version=10, **more)

    picture, out = value("x", "b", 2, 4, 4), value("y", "b", 3, 4, 4)
    norm = [tensor(f"n{i}", 3) for i in range(4)]
    norm[3] = numpy_helper.from_array(np.ones(3, np.float32), "n3")
    branches = [
        h.make_node("Conv", ["x", "w3"], ["a"], "a", pads=[1, 1, 1, 1], kernel_shape=[3, 3]),
        h.make_node("BatchNormalization", ["a", "n0", "n1", "n2", "n3"], ["an"], "an", epsilon=1e-5),
        h.make_node("Conv", ["x", "w1", "n0"], ["c"], "c", kernel_shape=[1, 1]),
        h.make_node("Add", ["an", "c"], ["s"], "s"),
        h.make_node("Relu", ["s"], ["y"], "r"),
    ]
    weights = [tensor("w3", 3, 2, 3, 3), tensor("w1", 3, 2, 1, 1), *norm]
    _save(model(branches, [picture], [out], weights), folder / "branches.onnx")

    attention = [
        h.make_node("MatMul", ["x", "wq"], ["q"], "q"),
        h.make_node("MatMul", ["x", "wk"], ["k"], "k"),
        h.make_node("Transpose", ["k"], ["kt"], "kt", perm=[0, 2, 1]),
        h.make_node("MatMul", ["q", "kt"], ["l"], "l"),
        h.make_node("Softmax", ["l"], ["p"], "p", axis=-1),
        h.make_node("MatMul", ["p", "x"], ["o"], "o"),
        h.make_node("Shape", ["o"], ["sh"], "sh"),
        h.make_node("Reshape", ["o", "sh"], ["y"], "re"),
    ]
    tokens = [value("x", "b", 5, 4)], [value("y", "b", 5, 4)]
    _save(model(attention, *tokens, [tensor("wq", 4, 4), tensor("wk", 4, 4)]), folder / "attention.onnx")

    body = h.make_graph(
        [h.make_node("Add", ["s", "one"], ["t"], "step"), h.make_node("Identity", ["c"], ["d"], "go")],
        "body",
        [value("i", kind=T.INT64), value("c", kind=T.BOOL), value("s", 2)],
        [value("d", kind=T.BOOL), value("t", 2)],
    )
    then, other = (h.make_graph([h.make_node(op, ["z"], [op], op)], op, [], [value(op, 2)]) for op in ("Relu", "Neg"))
    loop = [
        h.make_node("Loop", ["n", "yes", "x"], ["z"], "loop", body=body),
        h.make_node("If", ["yes"], ["y"], "if", then_branch=then, else_branch=other),
    ]
    constants = [
        numpy_helper.from_array(np.array(3, np.int64), "n"),
        numpy_helper.from_array(np.array(True), "yes"),
        tensor("one", 2),
    ]
    _save(model(loop, [value("x", 2)], [value("y", 2)], constants), folder / "loop.onnx")

    domain = [h.make_opsetid("", 18), h.make_opsetid("own", 1)]
    scale = [h.make_node("Conv", ["a", "k"], ["t"], "inner"), h.make_node("Sigmoid", ["t"], ["b"], "gate")]
    function = h.make_function("own", "Gate", ["a", "k"], ["b"], scale, domain)
    calls = [h.make_node("Gate", ["x", "w"], ["m"], "call", domain="own"), h.make_node("Mul", ["m", "m"], ["y"], "mul")]
    gated = model(calls, [picture], [out], [tensor("w", 3, 2, 1, 1)], opset_imports=domain, functions=[function])
    _save(gated, folder / "function.onnx")

    quantised = [
        h.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], "q"),
        h.make_node("DequantizeLinear", ["q", "s", "z"], ["d"], "d"),
        h.make_node("Conv", ["d", "w"], ["c"], "conv"),
        h.make_node("Clip", ["c", "low"], ["y"], "clip"),
    ]
    constants = [
        numpy_helper.from_array(np.array(0.1, np.float32), "s"),
        numpy_helper.from_array(np.array(0, np.int8), "z"),
        numpy_helper.from_array(np.array(0, np.float32), "low"),
        tensor("w", 3, 2, 1, 1),
    ]
    _save(model(quantised, [picture], [out], constants), folder / "quantised.onnx")

    import onnx

    beside = model(branches, [picture], [out], weights)
    place = folder / "beside.onnx"
    onnx.save(beside, place, save_as_external_data=True, location="beside.bin", size_threshold=0)


def weights(folder: Path) -> None:
    """State dicts of the network, as people save them."""
    import torch
    from safetensors.torch import save_file

    sys.path.insert(0, "")
    from net import Net  # type: ignore[import-not-found]

    folder.mkdir()
    state = Net().state_dict()
    save_file(state, folder / "net.safetensors", metadata={"format": "pt"})
    torch.save(state, folder / "net.pt")
    wrapped = {"epoch": 3, "state_dict": {f"module.{name}": item for name, item in state.items()}, "lr": 1e-3}
    torch.save(wrapped, folder / "wrapped.pth")
    torch.save(state, folder / "old.pt", _use_new_zipfile_serialization=False)


def arrays(folder: Path) -> None:
    """Write inputs of the network as arrays, and images."""
    import numpy as np

    folder.mkdir()
    values = np.random.default_rng(0).normal(size=(1, 2, 4, 4)).astype(np.float32)
    np.save(folder / "x.npy", values)
    np.savez(folder / "x.npz", x=values)
    np.savez_compressed(folder / "cases.npz", **{"one.x": values, "two.x": 2 * values})  # type: ignore[arg-type]
    with contextlib.suppress(ImportError):  # an extra: without it images are refused, which is tried as well
        from PIL import Image

        picture = Image.fromarray(np.arange(5 * 7 * 3, dtype=np.uint8).reshape(5, 7, 3))
        for suffix in ("png", "jpg", "bmp", "webp", "ppm"):
            picture.save(folder / f"i.{suffix}")


def signed(folder: Path) -> None:
    """Write a signed bundle, its key and signer, and a key with a passphrase; nothing where there is no OpenSSH."""
    folder.mkdir()
    if shutil.which("ssh-keygen") is None:
        return
    for name, word in (("key", ""), ("locked", "a passphrase")):
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-C", "somebody", "-N", word, "-f", str(folder / name)]
        subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
    kind, key = (folder / "key.pub").read_text(encoding="utf-8").split()[:2]
    (folder / "signers").write_text(f"somebody@here {kind} {key}\n", encoding="utf-8")
    shutil.copytree("bundle", folder / "bundle")
    from attn_export.bundle import signing

    signing.sign(bundle.read(folder / "bundle"), folder / "key")


if __name__ == "__main__":
    make(Path(sys.argv[1]))
