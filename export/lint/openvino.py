"""What OpenVINO takes of a graph, by what it said of single nodes."""

from attn_export.export.lint._probed import rules

RULES = rules("openvino")
