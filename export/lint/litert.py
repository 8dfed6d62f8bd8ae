"""What LiteRT's converter and XNNPACK take of a graph, by what was said of single nodes.

Nodes are told as the PyTorch operators that export to them.
"""

from attn_export.export.lint._probed import rules

RULES = rules("litert")
