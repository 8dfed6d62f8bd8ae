"""Hide PyTorch from a run of pytest, as where it is not installed: ``pytest -p tests.without_torch``."""

import sys

sys.modules["torch"] = None  # type: ignore[assignment]  # what import takes for "is not there"
