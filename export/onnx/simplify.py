"""Simplify a model with onnxsim, and assert its contract again on the result."""

from __future__ import annotations

import tempfile
from pathlib import Path

import onnx

from attn_export.errors import ExportError
from attn_export.export.onnx import contract
from attn_export.export.onnx.exported import Exported
from attn_export.export.onnx.save import save
from attn_export.process import activity, children
from attn_export.untrusted.text import first_line

#: Above this many bytes the simplifier gets a process of its own: it needs several times the model's memory.
LARGE = 1_000_000_000
#: A product of more than two axes and its bias become one Gemm between two Reshapes: one node more, and no faster.
GROWS = "fuse_matmul_add_bias_into_gemm_batched"


def simplify(exported: Exported) -> Exported:
    """Return the simplified model; the one given is not changed.

    Raises:
        ExportError: the simplifier failed.
        ContractError: it broke the contract.
    """
    try:
        with activity.doing("simplifying (--no-simplify leaves that out)", who="onnxsim", model=""):
            run = _apart if exported.weights > LARGE else _here
            model = run(exported.model)
            if Exported(model, exported.contract).nodes > exported.nodes:
                model = run(exported.model, GROWS)
    except Exception as error:  # a C++ library: whatever it raises is its failure
        raise ExportError(f"the simplifier failed: {first_line(error)}") from error
    return contract.check(model, exported.contract)


def _here(model: onnx.ModelProto, *skipped: str) -> onnx.ModelProto:
    import onnxsim

    simplified, _ = onnxsim.simplify(model, skipped_optimizers=list(skipped))
    assert isinstance(simplified, onnx.ModelProto)
    return simplified


def _apart(model: onnx.ModelProto, *skipped: str) -> onnx.ModelProto:
    with tempfile.TemporaryDirectory() as folder:
        before, after = Path(folder, "before.onnx"), Path(folder, "after.onnx")
        save(model, before)
        words = ("--skip-optimization", *skipped) if skipped else ()
        done = children.run("onnxsim", str(before), str(after), *words)
        if done.returncode:
            raise ExportError(children.ending(done.returncode, done.stderr))
        return onnx.load(after)
