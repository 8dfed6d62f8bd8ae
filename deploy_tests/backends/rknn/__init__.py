"""Rockchip's NPUs: compiled here by rknn-toolkit2 in an environment of its own, and not run."""

from attn_export.deploy_tests.backends.rknn.backend import RKNN

BACKEND = RKNN()
