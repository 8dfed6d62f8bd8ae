"""The runtimes a bundle can be proven on: one file or package each, torch-free, imported only when used."""

from attn_export._shelf import Shelf
from attn_export.deploy_tests.backend import Backend

BACKENDS: Shelf[Backend] = Shelf("attn_export.deploy_tests.backends", "BACKEND", "backend", families=False)
