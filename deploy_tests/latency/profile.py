"""Where the time goes: the kernels of a runtime's own profile, given back to the nodes that we wrote.

A kernel belongs to the nodes that the runtime names; or to the node of its name; or to the chain of nodes that ends in
the tensor of its name and begins with its operator. What belongs to none of ours is listed as the runtime's own, never
dropped.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from attn_export.bundle import Bundle
from attn_export.deploy_tests import backends
from attn_export.deploy_tests.backend import Kernel
from attn_export.deploy_tests.latency.roofline import Roofline
from attn_export.deploy_tests.open_bundle import chosen, options_for
from attn_export.types import JsonDict


@dataclass(frozen=True)
class KernelTime:
    """Time of one of our nodes with those it was run together with, and its share of what the machine can do.

    Attributes:
        nodes: our nodes in the order of the graph; empty where it is the runtime's own.
        share: of the whole run's kernel time.
        roofline_share: shortest possible time over measured; None where nothing is known of its work.
        limited_by: ``compute``, ``memory``, or empty.
    """

    name: str
    op: str
    nodes: tuple[str, ...]
    time_us: float
    share: float
    flops: int
    bytes: int
    roofline_share: float | None
    limited_by: str
    module: str


@dataclass(frozen=True)
class Profile:
    """Rows from the longest to the shortest, and the total over all kernels in microseconds."""

    rows: tuple[KernelTime, ...]
    total_us: float
    runs: int
    peak: Roofline | None

    @property
    def mapped_share(self) -> float:
        """Share of the time that was given to nodes of ours."""
        return sum(row.share for row in self.rows if row.nodes)

    @property
    def roofline_share(self) -> float | None:
        """Shortest possible over measured time of the whole graph."""
        if self.peak is None or not self.total_us:
            return None
        return sum(self.peak.shortest(row.flops, row.bytes) for row in self.rows) * 1e6 / self.total_us

    def to_dict(self) -> JsonDict:
        """Plain data."""
        rows = [{**asdict(row), "nodes": list(row.nodes)} for row in self.rows]
        return {**asdict(self), "rows": rows, "mapped_share": self.mapped_share, "roofline_share": self.roofline_share}


def profile_bundle(
    bundle: Bundle, backend: str, *, threads: int = 1, runs: int = 30, peak: Roofline | None = None
) -> Profile:
    """Profile the bundle's first case on a backend; costs come from the manifest, where it has them.

    Raises:
        UsageError: the backend has no profiler.
        BackendMissingError, BackendError: as the backend's ``profile``.
    """
    costs = bundle.manifest.get("costs") or {}
    nodes = costs.get("nodes", []) if isinstance(costs, Mapping) else []
    artifact = chosen(bundle, backend)
    options = options_for(bundle, artifact, threads)
    kernels = backends.profile(backend, artifact.path, bundle.cases[0].inputs, options, runs)
    return attribute(kernels, nodes, runs, peak)


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
    return Profile(tuple(sorted(rows, key=lambda row: -row.time_us)), total, runs, peak)


def _moved(members: Sequence[Mapping[str, Any]]) -> int:
    """Bytes of a chain run as one: what lies between its nodes stays in registers, so the activation adds nothing."""
    return int(members[0]["bytes"]) if members else 0


class _Graph:
    """Our nodes by name and by the tensor they make."""

    def __init__(self, nodes: Sequence[Mapping[str, Any]]) -> None:
        self.by_name = {node["name"]: node for node in nodes if node["name"]}
        self.makers = {tensor: node for node in nodes for tensor in node["outputs"]}

    def members(self, kernel: Kernel) -> list[Mapping[str, Any]]:
        """Find the nodes of ours that ``kernel`` runs, in order; none where it is the runtime's own."""
        if kernel.nodes:
            return [self.by_name[name] for name in kernel.nodes if name in self.by_name]
        for name in filter(None, (kernel.name, kernel.origin)):
            if name in self.by_name:
                return [self.by_name[name]]
        if (tensor := kernel.origin or kernel.name) in self.makers:
            return self._chain(self.makers[tensor], kernel.first_op or kernel.op)
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
