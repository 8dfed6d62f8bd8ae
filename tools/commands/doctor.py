"""``doctor``: what is installed, what is missing, and how to get it."""

from __future__ import annotations

import importlib.util
import sys

from attn_export import __version__
from attn_export.deploy_tests import environment
from attn_export.deploy_tests.backends import BACKENDS, missing
from attn_export.tools import console

_EXPORT_SIDE = ("torch", "onnx", "onnx_ir", "onnxscript", "onnxsim", "safetensors", "jaxtyping")


def report(as_json: bool) -> None:
    """Print the state of the export side and of every backend."""
    lacking = [name for name in _EXPORT_SIDE if importlib.util.find_spec(name) is None]
    backends = {name: missing(name) for name in BACKENDS}
    machine = environment.describe()
    if as_json:
        console.emit({"version": __version__, "missing": lacking, "backends": backends, "machine": machine})
        return
    console.say(f"attn-export {__version__}, Python {machine['python']} at {sys.executable}")
    console.say(f"machine       {machine['processor']}, {machine['cores']} cores, governor {machine['governor']}")
    remedy = f"missing {', '.join(lacking)}: pip install 'attn-export[export]'" if lacking else "ready"
    console.say(f"export        {remedy}")
    for name, why in backends.items():
        console.say(f"{name:<13} {why or BACKENDS[name].version()}")
