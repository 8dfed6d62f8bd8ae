"""ncnn on the CPU."""

from attn_export.deploy_tests.backends.ncnn.backend import Ncnn

BACKEND = Ncnn()
