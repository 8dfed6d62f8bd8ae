"""Fuse an ONNX graph of any producer: read, plan, prove each site, write, certify the whole in float64."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, inliner

from attn_export.errors import ExportError, FusionError
from attn_export.reparam import certify, ir, report
from attn_export.reparam import cost as costs
from attn_export.reparam.adapters.onnx_ import Reader
from attn_export.reparam.adapters.onnx_write import Writer
from attn_export.reparam.exact import Exact
from attn_export.reparam.fusion import CERTIFICATE_BOUND, Certificate, Fusion, Refusal, Site
from attn_export.reparam.plan import Merge, Plan, Planner

Feeds = Mapping[str, NDArray[Any]]
#: Operator sets whose meaning the reader knows.
OPSETS = range(11, 27)


def fuse_graph(
    model: onnx.ModelProto,
    *,
    cost: str = "cpu",
    keep: Sequence[str] = (),
    cases: Sequence[Feeds] | None = None,
    sizes: Mapping[str, int] | None = None,
    folder: Path | None = None,
    certificate: bool = True,
) -> Fusion[onnx.ModelProto]:
    """Return a fused copy of ``model`` with the account of what was done; ``model`` is not changed.

    Args:
        model: any producer's; external tensors may still lie in ``folder``.
        cost: the profile that says what pays: ``cpu``, ``gpu``, ``npu`` or ``flops``.
        keep: patterns of site names (``stages.0``, ``*.head``) whose branches are to stay.
        cases: inputs for the certificate; the first also gives the sizes that costs are counted at. Drawn if None.
        sizes: sizes of dynamic dimensions by name, where ``cases`` does not give them.
        folder: where external tensors lie.
        certificate: whether to run the whole graph in float64; without it, and where the graph has operators that
            the reference cannot run, the certificate holds the errors of the sites.

    Raises:
        FusionError: the opset is not one whose meaning is known.
        UnknownNameError: there is no such cost profile.
    """
    opset = next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 0)
    if opset not in OPSETS:
        raise FusionError(
            f"the model has opset {opset}; wanted {OPSETS[0]} to {OPSETS[-1]}; convert it with onnx.version_converter"
        )
    flat = inliner.inline_local_functions(model) if model.functions else model
    examples = list(cases) if cases is not None else [_draw(flat, sizes or {})]
    hints = {name: tuple(np.shape(array)) for name, array in examples[0].items()}
    reader = Reader(flat, hints, folder)
    planned = plan_and_prove(reader.graph, cost, keep)
    writer = Writer(reader, planned.plan.graph)
    fused = writer.write()
    errors = tuple(p.error for p in planned.proofs)
    if certificate:
        whole = _whole(flat, writer.write(wide=True), examples, folder)
        errors = errors if whole is None else whole
    bound = certify.ROUNDED_BOUND if any(p.rounded for p in planned.proofs) else CERTIFICATE_BOUND
    return Fusion(fused, planned.sites(reader.graph), Certificate(errors or (0.0,), bound), planned.refusals)


@dataclass(frozen=True)
class Planned:
    """A plan every site of which is proven, with the proofs and what was refused."""

    plan: Plan
    proofs: tuple[certify.Proof, ...]
    refusals: tuple[Refusal, ...]

    def sites(self, original: ir.Graph) -> tuple[Site, ...]:
        """Describe every merge."""
        return tuple(
            report.site(original, self.plan.graph, merge, proof)
            for merge, proof in zip(self.plan.merges, self.proofs, strict=True)
        )


def plan_and_prove(graph: ir.Graph, profile: str, keep: Sequence[str], bound: float = CERTIFICATE_BOUND) -> Planned:
    """Plan, prove every site, and plan again without those that fail."""
    planner = Planner(costs.profile(profile), keep)
    failed: list[Refusal] = []
    while True:
        plan = planner.run(graph)
        proofs = [certify.prove(graph, merge, planner.profile) for merge in plan.merges]
        wrong = [(m, p) for m, p in zip(plan.merges, proofs, strict=True) if not p.ok(bound)]
        if not wrong:
            break
        for merge, proof in wrong:
            failed.append(_rolled_back(merge, proof))
            planner.banned |= {(merge.root, target) for target in merge.targets}
    return Planned(plan, tuple(proofs), (*failed, *report.refusals(plan, planner)))


def _rolled_back(merge: Merge, proof: certify.Proof) -> Refusal:
    what = "bits differ under dyadic weights" if proof.structure is False else f"it is off by {proof.error:.2g}"
    return Refusal(
        report.site_name(merge.origins, merge.targets[-1]),
        f"rolled back: its certificate failed ({what})",
        "report the model: an exact rule should not fail",
    )


def _whole(
    plain: onnx.ModelProto, fused: onnx.ModelProto, examples: Sequence[Feeds], folder: Path | None
) -> tuple[float, ...] | None:
    """Both graphs in float64 on every example; None where the original has operators that cannot be evaluated."""
    try:
        exact = Exact(_inside(plain, folder))
        wanted = [exact.run(feeds) for feeds in examples]
    except ExportError:  # an operator of another domain; the proofs of the sites stand in
        return None
    other = Exact(_inside(fused, folder))
    return tuple(_error(want, other.run(feeds)) for want, feeds in zip(wanted, examples, strict=True))


def _inside(model: onnx.ModelProto, folder: Path | None) -> onnx.ModelProto:
    """The model with external tensors read in; itself where it has none."""
    if not any(tensor.data_location == TensorProto.EXTERNAL for tensor in model.graph.initializer):
        return model
    whole = onnx.ModelProto()
    whole.CopyFrom(model)
    onnx.load_external_data_for_model(whole, str(folder or ""))
    return whole


def _error(wanted: Feeds, got: Feeds) -> float:
    """The largest error over all outputs, each relative to its largest magnitude."""
    worst = 0.0
    for name, want in wanted.items():
        have = got[name]
        if want.shape != have.shape:
            return float("inf")
        if not np.issubdtype(want.dtype, np.floating):
            worst = max(worst, 0.0 if np.array_equal(want, have) else float("inf"))
            continue
        if want.size:
            gap = np.abs(want - have)
            gap[(want == have) | (np.isnan(want) & np.isnan(have))] = 0  # the same infinity is no difference
            scale = np.abs(want[np.isfinite(want)]).max(initial=1e-300)
            error = float(gap.max()) / float(scale)
            worst = max((worst, error), key=lambda e: (e != e, e))
    return worst


def _draw(model: onnx.ModelProto, sizes: Mapping[str, int], seed: int = 0) -> dict[str, NDArray[Any]]:
    """Draw inputs: normal for floats, zeros for the rest; dynamic dimensions get sizes that nets usually accept."""
    rng = np.random.default_rng(seed)
    constants = {t.name for t in model.graph.initializer}
    feeds: dict[str, NDArray[Any]] = {}
    for info in model.graph.input:
        if info.name in constants:
            continue
        kind = info.type.tensor_type
        shape = [
            d.dim_value if d.HasField("dim_value") else sizes.get(d.dim_param, 2 if n == 0 else 64)
            for n, d in enumerate(kind.shape.dim)
        ]
        dtype = helper.tensor_dtype_to_np_dtype(kind.elem_type or TensorProto.FLOAT)
        floating = kind.elem_type in (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE)
        feeds[info.name] = (rng.standard_normal(shape) if floating else np.zeros(shape)).astype(dtype)
    return feeds
