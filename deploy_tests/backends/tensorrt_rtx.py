"""TensorRT for RTX: the sibling for desktop GPUs, which also builds without one (see ``tensorrt.evidence``)."""

from attn_export.deploy_tests.backends.tensorrt.bindings import RTX
from attn_export.deploy_tests.backends.tensorrt.compiling import CompilingTensorRT

BACKEND = CompilingTensorRT(RTX)
