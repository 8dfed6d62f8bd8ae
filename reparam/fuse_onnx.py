"""Fuse an ONNX graph of any producer: read, plan, prove each site, write, certify the whole in float64."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import inliner

from attn_export.errors import FusionError
from attn_export.reparam.adapters.onnx.read import OnnxReader
from attn_export.reparam.adapters.onnx.write import Writer
from attn_export.reparam.core import plan_and_prove, rolled_back
from attn_export.reparam.planning import cost as costs
from attn_export.reparam.planning.plan import FusionPlan, Merge, Planner
from attn_export.reparam.proof import end_to_end
from attn_export.reparam.result import Certificate, Fusion, Refusal
from attn_export.types import Feeds

#: Operator sets whose meaning the reader knows.
OPSETS = range(11, 27)
_NOT_ASKED = "the whole graph was not asked to be run"
_NOT_RUN = (
    "the whole graph could not be run in float64 ({}): each site is proven on its own inputs, nothing between them"
)
#: Sites that the whole's certificate may roll back, one by one, before it is left to fail.
_MOST_BLAMED = 16


def fuse_graph(
    model: onnx.ModelProto,
    *,
    fuse_cost: str = "cpu",
    keep_branches: Sequence[str] = (),
    border_maps: bool = False,
    cases: Sequence[Feeds] | None = None,
    sizes: Mapping[str, int] | None = None,
    folder: Path | None = None,
    certificate: bool = True,
    quantization_error: bool = False,
) -> Fusion[onnx.ModelProto]:
    """Return a fused copy of ``model`` with the account of what was done; ``model`` is not changed.

    Where nothing is fused the model is the very one that was given.

    Args:
        model: any producer's; external tensors may still lie in ``folder``.
        fuse_cost: the cost model that says what pays: ``cpu``, ``gpu``, ``npu`` or ``flops``.
        keep_branches: patterns of site names (``stages.0``, ``*.head``) whose branches are to stay.
        border_maps: whether a constant that a padding breaks (a 1×1 with bias before a padded 3×3) may become a map of
            one number for each channel and position, added behind; exact, for fixed sizes only.
        cases: inputs for the certificate; the first also gives the sizes that costs are counted at. Drawn if None.
        sizes: sizes of dynamic dimensions by name, where ``cases`` does not give them.
        folder: where external tensors lie.
        certificate: whether to run the whole graph in float64; without it, and where the graph has operators that
            the reference cannot run, the certificate holds the errors of the sites, and says so.
        quantization_error: whether to compute, for each site, what INT8 and fp16 weights would lose before and after.

    Raises:
        FusionError: the opset is not one whose meaning is known, or its own functions do not fit their calls.
        UnknownNameError: there is no such cost profile.
    """
    opset = next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 0)
    if opset not in OPSETS:
        raise FusionError(
            f"the model has opset {opset}; expected {OPSETS[0]} to {OPSETS[-1]}; convert it with onnx.version_converter"
        )
    flat = _flat(model)
    examples = list(cases) if cases is not None else [end_to_end.draw(flat, sizes or {})]
    hints = {name: tuple(np.shape(array)) for name, array in examples[0].items()}
    reader = OnnxReader(flat, hints, folder)
    planner = Planner(costs.profile(fuse_cost), keep_branches, border_maps=border_maps)
    blamed: list[Refusal] = []
    while True:
        planned = plan_and_prove(reader.graph, planner)
        writer = Writer(reader, planned.plan.graph)
        errors, left_out = tuple(p.error for p in planned.proofs), _NOT_ASKED
        if certificate:
            unrounded = writer.write(unrounded=True)
            found = (
                (0.0,) * len(examples)  # nothing was changed, so that there is nothing to run
                if unrounded is flat
                else end_to_end.compare(flat, unrounded, examples, folder, writer.arrays)
            )
            errors, left_out = (errors, _NOT_RUN.format(found)) if isinstance(found, str) else (found, "")
        result = Certificate(errors or (0.0,), planned.bound, left_out)
        if result.ok or left_out:
            break
        merge = _to_blame(planned.plan, flat, unrounded, examples, planned.bound, folder, writer.arrays)
        if merge is None or len(blamed) == _MOST_BLAMED:
            break
        blamed.append(rolled_back(merge, "the whole graph's outputs differ, and they diverge there first"))
        planner.banned |= {(merge.root, target) for target in merge.targets}
    refusals = (*blamed, *planned.refusals)
    return Fusion(writer.write(), planned.sites(reader.graph, quantization_error=quantization_error), result, refusals)


def _flat(model: onnx.ModelProto) -> onnx.ModelProto:
    """Write out every call of the model's own functions.

    Raises:
        FusionError: they do not fit their calls.
    """
    try:
        return inliner.inline_local_functions(model) if model.functions else model
    except Exception as error:  # the inliner's errors share no base class
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise FusionError(
            f"the functions of the model cannot be written out in place of their calls: {reason}"
        ) from error


def _to_blame(
    plan: FusionPlan,
    original: onnx.ModelProto,
    fused: onnx.ModelProto,
    examples: Sequence[Feeds],
    bound: float,
    folder: Path | None,
    arrays: Feeds,
) -> Merge | None:
    """Find the merge at whose result the graphs first differ, on any example."""
    owners = {target: merge for merge in plan.merges for target in merge.targets}
    for feeds in examples:
        name = end_to_end.first_difference(original, fused, feeds, list(owners), bound, folder, arrays)
        if name is not None:
            return owners[name]
    return None
