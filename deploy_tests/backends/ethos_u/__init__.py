"""Arm's Ethos-U, the NPUs beside microcontrollers: compiled here by Arm's Vela, and not run."""

from attn_export.deploy_tests.backends.ethos_u.backend import EthosU

BACKEND = EthosU()
