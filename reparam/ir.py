"""A small graph: operators that the algebra knows, everything else opaque. Both adapters read into it.

Operators hold their constants as float64 arrays. A node has one output; an operator of the host with several
outputs is read as several nodes with one ``host``. Values that are constants never appear as inputs of nodes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from attn_export.reparam.types import Dim
from attn_export.types import Array, Ints


@dataclass(frozen=True, eq=False)
class Conv:
    """Convolution of ``(b, c, *space)``; ``pads`` are (left, right) for each spatial axis."""

    weight: Array
    bias: Array | None
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    groups: int
    pads: tuple[tuple[int, int], ...]


@dataclass(frozen=True, eq=False)
class ConvTranspose:
    """Transposed convolution; ``weight`` is ``(inputs, outputs of a group, *taps)``."""

    weight: Array
    bias: Array | None
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    groups: int
    pads: tuple[tuple[int, int], ...]
    extra: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Linear:
    """``x @ weight + bias`` along the last axis; ``weight`` is ``(inputs, outputs)``."""

    weight: Array
    bias: Array | None


@dataclass(frozen=True, eq=False)
class Affine:
    """``x * factor + term`` with constants that broadcast; ``axis`` given: one number for each index along it."""

    factor: Array | None
    term: Array | None
    axis: int | None = None


@dataclass(frozen=True, eq=False)
class Sum:
    """A weighted sum of tensors of one shape."""

    factors: tuple[float, ...]


@dataclass(frozen=True, eq=False)
class Concat:
    """Concatenation along an axis."""

    axis: int


@dataclass(frozen=True, eq=False)
class Pad:
    """Pad with a constant; negative amounts crop. One (left, right) for each axis."""

    pads: tuple[tuple[int, int], ...]
    value: float


@dataclass(frozen=True, eq=False)
class Border:
    """Pad by ``pads``, then write over the border: ``ring`` (left, right) of each spatial axis becomes ``value``.

    One value for each channel. The ring may be wider than the padding: then cells of the input are overwritten.
    """

    ring: tuple[tuple[int, int], ...]
    value: Array
    pads: tuple[tuple[int, int], ...]


@dataclass(frozen=True, eq=False)
class Slice:
    """``x[start : stop : step]`` along an axis, as in Python but with start and stop already clamped where known."""

    axis: int
    start: int
    stop: int | None
    step: int = 1


@dataclass(frozen=True, eq=False)
class Take:
    """Select indices along an axis."""

    axis: int
    index: Ints


@dataclass(frozen=True, eq=False)
class AvgPool:
    """Average pooling; ``norm`` replaces the number that sums are divided by."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    pads: tuple[tuple[int, int], ...]
    count_pad: bool
    ceil: bool
    norm: float | None = None


@dataclass(frozen=True, eq=False)
class Reshape:
    """Regroup axes; the node's output shape says into what."""


@dataclass(frozen=True, eq=False)
class Flatten:
    """``(b, ...)`` → ``(b, all the rest)``, followed by ``ones`` axes of size 1."""

    ones: int


@dataclass(frozen=True, eq=False)
class Transpose:
    """Permute axes."""

    perm: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class DepthToSpace:
    """Pixel shuffle: channels become positions; ``DCR`` or ``CRD`` order."""

    block: int
    crd: bool


@dataclass(frozen=True, eq=False)
class SpaceToDepth:
    """Pixel unshuffle; ``crd`` as in PyTorch, else in the order of ONNX."""

    block: int
    crd: bool


@dataclass(frozen=True, eq=False)
class Upsample:
    """Nearest upsampling by whole factors, one for each spatial axis."""

    factors: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Opaque:
    """Anything else."""

    kind: str


Op = (
    Conv
    | ConvTranspose
    | Linear
    | Affine
    | Sum
    | Concat
    | Pad
    | Border
    | Slice
    | Take
    | AvgPool
    | Reshape
    | Flatten
    | Transpose
    | DepthToSpace
    | SpaceToDepth
    | Upsample
    | Opaque
)

#: Operators that move data without computing: a region made of these only is nobody's business.
VIEWS = (Reshape, Flatten, Transpose, Slice, Take, Concat)


@dataclass(frozen=True, eq=False)
class Value:
    """A tensor: its shape by numbers and symbols, its sizes for the example, and its element type."""

    name: str
    shape: tuple[Dim, ...] | None
    sizes: tuple[int, ...] | None
    dtype: str = "float32"


@dataclass(frozen=True, eq=False)
class Node:
    """One operator. ``scope`` is the name a person knows it by; ``host`` the adapter's own node."""

    name: str
    op: Op
    inputs: tuple[str, ...]
    output: str
    scope: str = ""
    host: object = None


@dataclass
class Graph:
    """Nodes in execution order, values by name, and which values must survive (outputs, captured, kept)."""

    nodes: list[Node]
    values: dict[str, Value]
    inputs: tuple[str, ...]
    outputs: frozenset[str]
    producer: dict[str, Node] = field(init=False)
    consumers: dict[str, list[Node]] = field(init=False)
    position: dict[str, int] = field(init=False)
    #: What was counted of a node, for whoever counts: it stays as it is while the graph does.
    counted: dict[int, object] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self.index()

    def index(self) -> None:
        """Recompute who makes and who reads each value."""
        self.producer = {node.output: node for node in self.nodes}
        self.position = {node.output: number for number, node in enumerate(self.nodes)}
        self.consumers = {}
        for node in self.nodes:
            for name in dict.fromkeys(node.inputs):
                self.consumers.setdefault(name, []).append(node)

    def replaced(
        self, dead: Iterable[Node], new: dict[str, list[Node]], values: dict[str, Value] | None = None
    ) -> Graph:
        """Return a graph without ``dead``, with the nodes of ``new`` where the producer of each value stood."""
        gone = {id(node) for node in dead}
        nodes: list[Node] = []
        for node in self.nodes:
            nodes += new.get(node.output, [])
            if id(node) not in gone and node.output not in new:
                nodes.append(node)
        return Graph(nodes, values or self.values, self.inputs, self.outputs)
