"""Fuse, export and prove vision mechanisms for edge devices."""

import os

__version__ = "0.1.0"

# ONNX Runtime sends telemetry unless told not to, and writes to the home folder when it is imported. Whatever of ours
# is imported first passes here, and children inherit it. What the user has set himself stands.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
