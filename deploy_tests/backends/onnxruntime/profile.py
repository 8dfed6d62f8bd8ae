"""Where the time goes: ONNX Runtime's own profile, mapped back to the nodes that we wrote.

The runtime renames what it optimises: a convolution in its blocked layout is called after the tensor it now makes
(``relu_nchwc``), one that took an activation in is ``fused …``, and reorders are its own. A runtime's kernel is given
to the node of its name, or to the chain of nodes that ends in the tensor of its name and begins with its operator.
What belongs to none of ours is listed as the runtime's own, never dropped.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from attn_export.bundle import Bundle
from attn_export.deploy_tests.latency.roofline import Roofline
from attn_export.deploy_tests.latency.statistics import percentile
from attn_export.errors import BackendError, BackendMissingError
from attn_export.process import activity
from attn_export.types import Feeds

_SUFFIX = re.compile(r"(_nchwc|_kernel_time|_fused|/duplicated|_token_\d+)+$")
#: Runtime kernels that stand for another operator of the graph.
_STANDS_FOR = {"FusedConv": "Conv", "FusedMatMul": "MatMul", "FusedGemm": "Gemm", "QuickGelu": "Sigmoid"}
#: The percentile that stands for a kernel: a high one tells what else ran on the machine, not what the kernel costs.
LOW = 10


@dataclass(frozen=True)
class Kernel:
    """One kernel of the runtime: its name, operator and undisturbed time in microseconds."""

    name: str
    op: str
    microseconds: float


@dataclass(frozen=True)
class KernelTime:
    """Time of one of our nodes with those it was run together with, and its share of what the machine can do.

    Attributes:
        nodes: our nodes in the order of the graph; empty where it is the runtime's own.
        share: of the whole run's kernel time.
        roofline: shortest possible time over measured; None where nothing is known of its work.
        bound: ``compute``, ``memory``, or empty.
    """

    name: str
    op: str
    nodes: tuple[str, ...]
    microseconds: float
    share: float
    flops: int
    bytes: int
    roofline: float | None
    bound: str
    module: str


@dataclass(frozen=True)
class Profile:
    """Rows from the longest to the shortest, and the total over all kernels in microseconds."""

    rows: tuple[KernelTime, ...]
    total: float
    runs: int
    peak: Roofline | None

    @property
    def mapped(self) -> float:
        """Share of the time that was given to nodes of ours."""
        return sum(row.share for row in self.rows if row.nodes)

    @property
    def roofline(self) -> float | None:
        """Shortest possible over measured time of the whole graph."""
        if self.peak is None or not self.total:
            return None
        return sum(self.peak.shortest(row.flops, row.bytes) for row in self.rows) * 1e6 / self.total

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {**asdict(self), "mapped": self.mapped, "roofline": self.roofline}


def profile(bundle: Bundle, *, threads: int = 1, runs: int = 30, peak: Roofline | None = None) -> Profile:
    """Profile the bundle's first case on ONNX Runtime; costs come from the manifest, where it has them.

    Raises:
        BackendMissingError: ONNX Runtime is not installed.
        BackendError: it refuses the model.
    """
    costs = bundle.manifest.get("costs") or {}
    nodes = costs.get("nodes", []) if isinstance(costs, Mapping) else []
    return attribute(record(bundle.model, bundle.cases[0].inputs, threads, runs), nodes, runs, peak)


def record(model: Path, feeds: Feeds, threads: int, runs: int) -> tuple[Kernel, ...]:
    """Run under the profiler; the undisturbed time of each kernel, in the order in which they first ran."""
    try:
        import onnxruntime
    except ImportError as error:
        raise BackendMissingError("ONNX Runtime is not installed: pip install onnxruntime") from error
    with tempfile.TemporaryDirectory() as folder:
        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads, settings.inter_op_num_threads = threads, 1
        settings.log_severity_level = 3
        settings.add_session_config_entry("session.set_denormal_as_zero", "1")
        settings.enable_profiling = True
        settings.profile_file_prefix = str(Path(folder) / "profile")
        try:
            with activity.doing("profiling the model", who="ONNX Runtime", model=model):
                session = onnxruntime.InferenceSession(str(model), settings, providers=["CPUExecutionProvider"])
                for _ in range(runs + 3):
                    session.run(None, dict(feeds))
                text = Path(session.end_profiling()).read_text(encoding="utf-8")
        except Exception as error:  # the runtime's exceptions share no base class of their own
            raise BackendError(f"ONNX Runtime {onnxruntime.__version__} does not profile {model}: {error}") from error
    return kernels(json.loads(text), skip=3)


def kernels(events: Sequence[Mapping[str, Any]], skip: int = 0) -> tuple[Kernel, ...]:
    """Read the profiler's events; the first ``skip`` runs of each kernel warm up."""
    times: dict[tuple[str, str, str], list[float]] = defaultdict(list)
    for event in events:
        name = str(event.get("name", ""))
        if event.get("cat") == "Node" and name.endswith("_kernel_time"):
            arguments = event.get("args", {})
            key = (
                name.removesuffix("_kernel_time"),
                arguments.get("op_name", ""),
                str(arguments.get("node_index", "")),
            )
            times[key].append(float(event.get("dur", 0)))
    return tuple(Kernel(name, op, percentile(values[skip:] or values, LOW)) for (name, op, _), values in times.items())


def attribute(
    found: Sequence[Kernel], nodes: Sequence[Mapping[str, Any]], runs: int, peak: Roofline | None = None
) -> Profile:
    """Give each kernel's time to the nodes it runs, and weigh it against the machine's peak."""
    graph = _Graph(nodes)
    total = sum(kernel.microseconds for kernel in found)
    rows = []
    for kernel in found:
        members = graph.members(kernel)
        flops = sum(int(member["flops"]) for member in members)
        moved = _moved(members)
        shortest = peak.shortest(flops, moved) * 1e6 if peak and members else None
        rows.append(
            KernelTime(
                members[0]["name"] if members else kernel.name,
                kernel.op,
                tuple(member["name"] for member in members),
                kernel.microseconds,
                kernel.microseconds / total if total else 0.0,
                flops,
                moved,
                shortest / kernel.microseconds if shortest is not None and kernel.microseconds else None,
                peak.bound(flops, moved) if peak and members else "",
                next((member["module"] for member in members if member.get("module")), ""),
            )
        )
    return Profile(tuple(sorted(rows, key=lambda row: -row.microseconds)), total, runs, peak)


def _moved(members: Sequence[Mapping[str, Any]]) -> int:
    """Bytes of a chain run as one: what lies between its nodes stays in registers, so the activation adds nothing."""
    return int(members[0]["bytes"]) if members else 0


class _Graph:
    """Our nodes by name and by the tensor they make."""

    def __init__(self, nodes: Sequence[Mapping[str, Any]]) -> None:
        self.by_name = {node["name"]: node for node in nodes if node["name"]}
        self.makers = {tensor: node for node in nodes for tensor in node["outputs"]}

    def members(self, kernel: Kernel) -> list[Mapping[str, Any]]:
        """The nodes of ours that ``kernel`` runs, first one first; empty where it is the runtime's own."""
        if kernel.name in self.by_name:
            return [self.by_name[kernel.name]]
        bare = _SUFFIX.sub("", kernel.name).removeprefix("fused ").strip()
        op = _STANDS_FOR.get(kernel.op, kernel.op)
        if bare in self.by_name:
            return [self.by_name[bare]]
        if bare in self.makers:
            return self._chain(self.makers[bare], op)
        inside = [name for name in self.by_name if re.search(rf"(?<![\w.]){re.escape(name)}(?![\w.]*\w)", kernel.name)]
        return [self.by_name[name] for name in sorted(inside, key=kernel.name.index)]

    def _chain(self, last: Mapping[str, Any], op: str) -> list[Mapping[str, Any]]:
        """From ``last`` back along first inputs to a node of ``op``, four steps at most; ``last`` alone if none."""
        chain = [last]
        while chain[0]["op"] != op and len(chain) < 4:
            before = next((self.makers[tensor] for tensor in chain[0]["inputs"] if tensor in self.makers), None)
            if before is None:
                return [last]
            chain.insert(0, before)
        return chain if chain[0]["op"] == op else [last]
