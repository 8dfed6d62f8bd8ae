"""``doctor``: what is installed, what is missing, and how to get it."""

from __future__ import annotations

import importlib.util
import os
import sys

from attn_export import __version__
from attn_export.deploy_tests.backends import BACKENDS, compilers, missing, missing_compiler
from attn_export.deploy_tests.machine import environment
from attn_export.tools import console

_TELEMETRY = "ORT_DISABLE_TELEMETRY"
#: What ONNX Runtime 1.32 takes for a yes; with anything else it reports (tried).
_OFF = {"1", "true", "yes", "on", "y"}
_EXPORT_SIDE = ("torch", "onnx", "onnx_ir", "onnxscript", "onnxsim", "safetensors", "jaxtyping")


def report(*, as_json: bool) -> None:
    """Print the state of the export side, of every backend, and of every compiler for chips that are not here."""
    lacking = [name for name in _EXPORT_SIDE if importlib.util.find_spec(name) is None]
    backends = {name: missing(name) for name in BACKENDS}
    able = {name: missing_compiler(name) for name in compilers()}
    machine = environment.describe()
    if as_json:
        state = {
            "missing": lacking,
            "backends": backends,
            "compilers": able,
            "machine": machine,
            "telemetry": not telemetry_off(),
        }
        console.emit({"version": __version__, **state})
        return
    console.say(f"attn-export {__version__}, Python {machine['python']} at {sys.executable}")
    console.say(f"machine       {machine['processor']}, {machine['cores']} cores, governor {machine['governor']}")
    if what := machine.get("emulated"):
        console.say(f"              emulated: {what}; parity can be proven here, no time can be measured")
    remedy = f"missing {', '.join(lacking)}: pip install 'attn-export[export]'" if lacking else "ready"
    console.say(f"export        {remedy}")
    for name, why in backends.items():
        console.say(f"{name:<13} {why or BACKENDS[name].version()}")
    for name, why in able.items():
        console.say(f"compile       {name}: {why or 'ready'}")
    console.say("targets       converters, compilers and lint rules: attn-export targets")
    said = f"{_TELEMETRY}={os.environ.get(_TELEMETRY, '')}"
    console.say(f"telemetry     ONNX Runtime: {f'off ({said})' if telemetry_off() else f'as you set it ({said})'}")


def telemetry_off() -> bool:
    """Whether ONNX Runtime is told not to report home: we say so on import, unless the user has said otherwise."""
    return os.environ.get(_TELEMETRY, "").strip().lower() in _OFF
