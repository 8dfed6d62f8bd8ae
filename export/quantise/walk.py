"""Run a model piece by piece on many cases, keeping only what later pieces read.

Rounding asks, layer after layer, for one more tensor of a model whose earlier layers are settled. Run from the start
each time, that is as many runs as there are layers; here every node is run once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import onnx

from attn_export.export.graph import cut
from attn_export.export.graph.index import GraphIndex
from attn_export.export.quantise.watch import looked
from attn_export.reparam.adapters.onnx.nodes import captured
from attn_export.types import Array, Feeds


class Walk:
    """How far some cases have been run through a model that grows as it is walked.

    What is kept of a case are tensors of the original model alone: what rounds them is run again where it is read.
    """

    def __init__(self, original: onnx.ModelProto, cases: Iterable[Feeds]) -> None:
        graph = GraphIndex(original)
        self._readers = {
            name: [node.output[0] for node in nodes if node.output] for name, nodes in graph.readers.items()
        }
        for node in graph.nodes:
            for name in captured(node):
                self._readers.setdefault(name, []).append(node.output[0])
        self._own = {*graph.maker, *(port.name for port in graph.inputs)}
        self._done = {port.name for port in graph.inputs}
        self.cases: list[dict[str, Array]] = [dict(feeds) for feeds in cases]

    def advance(self, model: onnx.ModelProto, tensor: str) -> Iterator[Array]:
        """Run on to a tensor of ``model``, which is the original with some layers rounded, and give it case by case.

        Raises:
            ExportError: the model does not run.
        """
        if all(tensor in case for case in self.cases):
            yield from [case[tensor] for case in self.cases]
            return
        part = cut.exposed(model, [tensor], given=self.cases[0])
        made = {name for node in part.graph.node for name in node.output}
        self._done |= made
        kept = [name for name in made if name in self._own and self._is_read(name)]
        names = list(dict.fromkeys([tensor, *kept]))
        for case, values in zip(self.cases, looked(part, names, self.cases), strict=True):
            case.update({name: values[name] for name in kept})
            for name in [name for name in case if not self._is_read(name)]:
                del case[name]
            yield values[tensor]

    def _is_read(self, name: str) -> bool:
        """Whether something that was not run yet reads a tensor."""
        return any(reader not in self._done for reader in self._readers.get(name, ()))
