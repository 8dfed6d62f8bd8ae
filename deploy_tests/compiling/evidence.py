"""Evidence E1: a vendor's compiler accepted this very graph for a chip, and the chip stands in what it wrote."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from numpy.typing import NDArray


@dataclass(frozen=True)
class CpuNode:
    """A node that stays on the CPU.

    Attributes:
        node: its name in the graph that was compiled; empty where the compiler gives none.
        op: its operator, in the compiler's words.
        reason: why, where the compiler says so.
    """

    node: str
    op: str
    reason: str = ""

    def __str__(self) -> str:
        why = f"({self.reason})" if self.reason else ""
        return " ".join(filter(None, (self.op, repr(self.node) if self.node else "", why)))


@dataclass(frozen=True)
class Placement:
    """Where the nodes of a graph would run.

    Attributes:
        accelerator: how many run on the accelerator, as the compiler counts them.
        cpu: each that stays on the CPU.
        refusal: why the compiler refused to place the whole graph on the accelerator; empty where it was not asked.
    """

    accelerator: int
    cpu: tuple[CpuNode, ...] = ()
    refusal: str = ""

    @property
    def nodes(self) -> int:
        """How many there are."""
        return self.accelerator + len(self.cpu)

    def summary(self) -> str:
        """Say it in words that follow a claim.

        >>> Placement(7).summary()
        'all 7 nodes on the accelerator'
        >>> Placement(27, (CpuNode("m", "Mean"),)).summary()
        '27 of 28 nodes on the accelerator, 1 on the CPU'
        """
        if not self.cpu:
            return f"all {self.accelerator} nodes on the accelerator"
        return f"{self.accelerator} of {self.nodes} nodes on the accelerator, {len(self.cpu)} on the CPU"


@dataclass(frozen=True)
class ChipEvidence:
    """A build that succeeded without the chip.

    Attributes:
        product: which compiler built.
        version: its version.
        target: what was asked for, such as ``qnn:sm8650``.
        chip: the chip as it was read back from the artifact.
        read_back: what stands there, to the letter.
        precision: in which the accelerator computes.
        sizes: the shape that each input was fixed at for the build.
        sha256: of the model and the weights beside it.
        placement: where its nodes would run.
        artifact_bytes: size of what was built.
        artifact_sha256: its hash.
        build_s: seconds that the build took.
        flags: what else shapes the build.
        estimate: figures of the compiler's own model of the chip; measured nowhere.
        warnings: what the compiler warned of.
        simulated: what the maker's simulator gave for the inputs that were to be simulated, in their order.
    """

    product: str
    version: str
    target: str
    chip: str
    read_back: str
    precision: str
    sizes: Mapping[str, tuple[int, ...]]
    sha256: str
    placement: Placement
    artifact_bytes: int
    artifact_sha256: str
    build_s: float
    flags: Mapping[str, Any] = field(default_factory=dict)
    estimate: Mapping[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    simulated: Sequence[Mapping[str, NDArray[Any]]] = field(default=(), repr=False)

    level = "E1"

    def summary(self) -> str:
        """Say the claim, in the only words it may be made in."""
        return (
            f"builds under {self.product} {self.version} for {self.chip} in {self.precision},"
            f" {self.placement.summary()}, not run"
        )

    def details(self) -> str:
        """Say at which sizes it was built, what stays on the CPU, and what the compiler's own model says."""
        said = [f"sizes fixed at {sizes_said(self.sizes)}" if self.sizes else "", f"the artifact says {self.read_back}"]
        if self.placement.cpu:
            said.append(f"on the CPU: {', '.join(map(str, self.placement.cpu))}")
        if self.placement.refusal:
            said.append(f"the whole graph was refused: {self.placement.refusal}")
        if self.estimate:
            figures = ", ".join(
                f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}"
                for name, value in self.estimate.items()
            )
            said.append(f"the compiler's own estimate, measured nowhere: {figures}")
        return "; ".join(filter(None, said))

    def to_dict(self) -> dict[str, Any]:
        """Give the evidence as plain data, for a report; without what was simulated, which is judged elsewhere."""
        return {
            "level": self.level,
            "claim": self.summary(),
            "meaning": f"{self.product} accepted this very graph (sha256) for {self.chip}, as its artifact says",
            "executed": False,
            "product": self.product,
            "version": self.version,
            "target": self.target,
            "chip": self.chip,
            "read_back": self.read_back,
            "precision": self.precision,
            "sizes": {name: list(shape) for name, shape in self.sizes.items()},
            "sha256": self.sha256,
            "placement": {
                "nodes": self.placement.nodes,
                "accelerator": self.placement.accelerator,
                "cpu": [vars(node) for node in self.placement.cpu],
                "refusal": self.placement.refusal,
            },
            "estimate": dict(self.estimate),
            "engine_bytes": self.artifact_bytes,
            "engine_sha256": self.artifact_sha256,
            "build_s": self.build_s,
            "flags": dict(self.flags),
            "warnings": list(self.warnings),
        }


def sizes_said(sizes: Mapping[str, Sequence[int]]) -> str:
    """Write shapes as the command line does.

    >>> sizes_said({"x": (1, 3, 32, 32)})
    'x:1x3x32x32'
    """
    return ", ".join(f"{name}:{'x'.join(map(str, shape))}" for name, shape in sizes.items())


def graph_hash(model: Path) -> str:
    """Hash of a model's file and of the weights beside it (``<name>.data``), in hexadecimal."""
    digest = hashlib.sha256()
    beside = model.with_name(model.name + ".data")
    for path in (model, beside) if beside.is_file() else (model,):
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()
