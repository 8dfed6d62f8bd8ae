"""TensorRT 10 and 11: build engines, run them, time them, and say what was shown.

Nothing heavy is imported here: NumPy and ctypes; the bindings are imported where they are used.
"""

from attn_export.deploy_tests.backends.tensorrt.backend import TensorRT
from attn_export.deploy_tests.backends.tensorrt.bindings import TENSORRT

BACKEND = TensorRT(TENSORRT)
