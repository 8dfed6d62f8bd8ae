"""ExecuTorch's format, with XNNPACK's kernels where they take an operator: PyTorch's own runtime for phones."""

from attn_export.export.converters.executorch.converter import Executorch

CONVERTER = Executorch()
