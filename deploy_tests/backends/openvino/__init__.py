"""OpenVINO on the CPU."""

from attn_export.deploy_tests.backends.openvino.backend import OpenVino

BACKEND = OpenVino()
