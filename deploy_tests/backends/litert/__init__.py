"""LiteRT on the CPU: the interpreter of ``.tflite`` files, by its own package alone."""

from attn_export.deploy_tests.backends.litert.backend import Litert

BACKEND = Litert()
