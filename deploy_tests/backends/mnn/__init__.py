"""MNN on the CPU."""

from attn_export.deploy_tests.backends.mnn.backend import Mnn

BACKEND = Mnn()
