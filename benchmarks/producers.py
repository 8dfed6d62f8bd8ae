"""Convolutions that fusing leaves of one net, whoever wrote its file: both exporters, optimised and not.

    python -m benchmarks.producers [NAME …] [--size 64] [--blocks | --networks]

Over the blocks of the tests (so it runs from a checkout) and the whole networks. Each file is written by dynamo or by
TorchScript, with its optimiser or without, and then given to onnxsim or to ONNX Runtime's own optimiser. Exits with 1
if two files of a net disagree.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path

import onnx
import onnxruntime as ort
import onnxsim
import torch
from torch import nn

from attn_export.reparam.fuse_onnx import fuse_graph
from benchmarks.networks import NETWORKS, build

#: A net in evaluation mode, and inputs for it.
Net = tuple[nn.Module, tuple[torch.Tensor, ...]]
OPSET = 17


def dynamo(net: Net, *, optimize: bool) -> onnx.ModelProto:
    """Write with the exporter that traces by ``torch.export``."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(net[0], net[1], dynamo=True, verbose=False, optimize=optimize)
    assert program is not None
    return program.model_proto


def torchscript(net: Net, *, optimize: bool) -> onnx.ModelProto:
    """Write with the older exporter; without its optimiser, norms and constants stay as they were traced."""
    mode = torch.onnx.TrainingMode.EVAL if optimize else torch.onnx.TrainingMode.PRESERVE
    said = contextlib.redirect_stdout(io.StringIO())  # the whole graph, where it fails
    with warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder, said:
        warnings.simplefilter("ignore")
        file = Path(folder, "net.onnx")
        torch.onnx.export(
            net[0], net[1], file, dynamo=False, opset_version=OPSET, training=mode, do_constant_folding=optimize
        )
        return onnx.load(file)


def simplified(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return what onnxsim makes of it."""
    result: onnx.ModelProto = onnxsim.simplify(model)[0]
    return result


def runtime(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return what ONNX Runtime's optimiser makes of it, at the level whose result is still standard ONNX."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "optimised.onnx")
        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(file)
        options.log_severity_level = 3
        ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        return onnx.load(file)


def files(net: Net) -> Iterator[tuple[str, onnx.ModelProto]]:
    """Every file of a net, by its producer; those that TorchScript cannot write are left out."""
    for name, write in (("dynamo", dynamo), ("TorchScript", torchscript)):
        try:
            plain = write(net, optimize=False)
        except torch.onnx.errors.OnnxExporterError:
            continue
        yield name, plain
        yield f"{name}, optimised", write(net, optimize=True)
        yield f"{name}, onnxsim", simplified(plain)
        yield f"{name}, ONNX Runtime", runtime(plain)


PRODUCERS = [
    f"{name}{more}" for name in ("dynamo", "TorchScript") for more in ("", ", optimised", ", onnxsim", ", ONNX Runtime")
]


def convolutions(model: onnx.ModelProto) -> int:
    """Convolutions of both kinds."""
    return sum(node.op_type in ("Conv", "ConvTranspose") for node in model.graph.node)


def counts(net: Net) -> dict[str, tuple[int, int]]:
    """Convolutions of each file before and after fusing it."""
    result = {}
    for name, model in files(net):
        fusion = fuse_graph(model)
        if not fusion.certificate.ok:
            raise AssertionError(f"{name}: its certificate failed, {fusion.certificate.worst}")
        result[name] = convolutions(model), convolutions(fusion.model)
    return result


def agree(found: Mapping[str, tuple[int, int]]) -> bool:
    """Whether all files end with the same number of convolutions."""
    return len({after for _, after in found.values()}) == 1


def _block(number: int) -> Net:
    blocks = importlib.import_module("tests.reparam.blocks")
    torch.manual_seed(3)
    row = blocks.BLOCKS[number]
    return blocks.wake(row.build()), (torch.randn(row.shape),)


def _network(name: str, size: int) -> Net:
    batch, channels, *_ = NETWORKS[name].shape
    return build(name), (torch.randn(batch, channels, size, size),)


def nets(size: int, *, blocks: bool, networks: bool) -> Iterator[tuple[str, Callable[[], Net]]]:
    """Names of all nets, with how to get each."""
    if blocks:
        for number, row in enumerate(importlib.import_module("tests.reparam.blocks").BLOCKS):
            yield row.name, partial(_block, number)
    if networks:
        for name in NETWORKS:
            yield name, partial(_network, name, size)


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--size", type=int, default=64, help="of the pictures that whole networks get")
    parser.add_argument("--blocks", action="store_true", help="the blocks only")
    parser.add_argument("--networks", action="store_true", help="the whole networks only")
    options = parser.parse_args()
    torch.set_num_threads(1)
    sys.path.insert(0, ".")
    print(f"| net | {' | '.join(PRODUCERS)} |\n|{'---|' * (len(PRODUCERS) + 1)}")
    wrong, total = [], 0
    both = options.blocks == options.networks
    for name, make in nets(options.size, blocks=both or options.blocks, networks=both or options.networks):
        if options.names and name not in options.names:
            continue
        found, total = counts(make()), total + 1
        cells = [f"{found[p][0]} → {found[p][1]}" if p in found else "not exported" for p in PRODUCERS]
        print(f"| {name} | {' | '.join(cells)} |", flush=True)
        if not agree(found):
            wrong.append(name)
    print(f"\n{total} nets, {len(wrong)} whose files disagree{': ' if wrong else ''}{', '.join(wrong)}")
    return 1 if wrong or not total else 0


if __name__ == "__main__":
    sys.exit(main())
