"""ExecuTorch on the CPU: the runtime of ``.pte`` files, by its bindings for Python."""

from attn_export.deploy_tests.backends.executorch.backend import Executorch

BACKEND = Executorch()
