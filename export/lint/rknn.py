"""What Rockchip's compiler takes of a graph: by what it said of single nodes, and of files as a whole."""

from __future__ import annotations

from collections.abc import Iterator

from attn_export.export.graph.index import GraphIndex
from attn_export.export.lint._probed import rules
from attn_export.export.lint._rule import Hit, recorder

RULES = rules("rknn")
rule = recorder(RULES)
#: The last opset that it reads.
OPSET = 19


@rule("refused", "rknn-toolkit2 2.5.0 [ran]")
def opset_above_nineteen(graph: GraphIndex) -> Iterator[Hit]:
    """Find files of an opset that it does not read, whatever their nodes are."""
    if graph.opset > OPSET and graph.nodes:
        why = f"the file is of opset {graph.opset}, and it reads {OPSET} at most"
        yield graph.nodes[0], why, f"export with --opset {OPSET} or below"
