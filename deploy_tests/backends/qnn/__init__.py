"""Qualcomm's HTP, the NPU of Snapdragon chips: compiled here by ONNX Runtime's plug-in for QNN, and not run."""

from attn_export.deploy_tests.backends.qnn.backend import QNN

BACKEND = QNN()
