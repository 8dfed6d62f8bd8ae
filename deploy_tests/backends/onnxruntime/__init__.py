"""ONNX Runtime on the CPU: the runtime of the base install."""

from attn_export.deploy_tests.backends.onnxruntime.backend import OnnxRuntime

BACKEND = OnnxRuntime()
