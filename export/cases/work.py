"""What one run of a subject costs, so that a large one is proven on fewer inputs: counted, not timed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from attn_export.export.cases import continuous
from attn_export.export.copies import copied
from attn_export.export.graph import cost
from attn_export.export.graph.index import GraphIndex
from attn_export.export.outputs import evaluate
from attn_export.export.subject import Subject

#: What an operator costs by itself, and an element that it writes, in multiplications and additions.
_CALL, _ELEMENT = 200_000, 20
#: How much slower our own evaluation of a graph is than PyTorch.
_GRAPH = 10


@dataclass(frozen=True)
class Work:
    """One run.

    Attributes:
        calls: what its operators cost whatever they work on, in multiplications and additions.
        operations: what they do to their elements.
        bytes: what a case of its inputs and outputs takes in a bundle.
        jumps: whether it has an operator whose results may jump.
    """

    calls: int
    operations: int
    bytes: int
    jumps: bool = True


def measure(subject: Subject, sizes: Mapping[str, int]) -> Work:
    """Run once at the traced sizes, but for those given, and count.

    Raises:
        SubjectError: it does not run.
    """
    inputs = subject.example(sizes=sizes)
    if subject.graph is not None:
        outputs = evaluate(subject.module, inputs)
        rows = cost.costs(subject.graph, {name: value.shape for name, value in inputs.items()})
        calls = _CALL * len(rows)
        count = _GRAPH * sum(row.flops + _ELEMENT * row.bytes // 8 for row in rows)
        # An operator that holds a graph, and a function of the file's own, is not in the table.
        jumps = not continuous.graph(GraphIndex(subject.graph))
    else:
        module = copied(subject.module)
        with _Counting() as counted:
            outputs = evaluate(module, inputs)
        calls, count, jumps = _CALL * counted.calls, counted.operations, counted.jumps
    size = sum(value.numel() * value.element_size() for value in inputs.values())
    return Work(calls, count, size + sum(value.numel() * 8 for value in outputs.values()), jumps)


class _Counting(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls = self.operations = 0
        self.jumps = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call an operator, and count what it does."""
        made = func(*args, **(kwargs or {}))
        written = sum(leaf.numel() for leaf in tree_leaves(made) if isinstance(leaf, Tensor))
        count = flop_registry.get(func.overloadpacket)
        flops = count(*args, **(kwargs or {}), out_val=made) if count is not None else 0
        self.calls += 1
        self.jumps |= not continuous.torch_operator(str(func.overloadpacket.__name__), args, kwargs)
        self.operations += _ELEMENT * written + int(flops)
        return made
