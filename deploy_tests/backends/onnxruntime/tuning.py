"""Settings of a session: which there are, which are worth trying, and how they are written in a program."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attn_export.deploy_tests.backend import Options
from attn_export.errors import UsageError

MODE, LEVEL = "execution_mode", "graph_optimization_level"
#: By setting its values and what the runtime calls them, the usual one first.
VALUES: Mapping[str, Mapping[str, str]] = {
    MODE: {"sequential": "ORT_SEQUENTIAL", "parallel": "ORT_PARALLEL"},
    LEVEL: {
        "all": "ORT_ENABLE_ALL",
        "extended": "ORT_ENABLE_EXTENDED",
        "basic": "ORT_ENABLE_BASIC",
        "none": "ORT_DISABLE_ALL",
    },
}
_CLASSES = {MODE: "ExecutionMode", LEVEL: "GraphOptimizationLevel"}
#: The option by which products of 8-bit numbers are added in full.
WHOLE_PRODUCTS = "session.x64quantprecision"
#: Of every session of ours.
ENTRIES: Mapping[str, str] = {
    # A denormal costs a hundred times a normal number; timing them would measure the input, not the model.
    "session.set_denormal_as_zero": "1",
    # Spinning threads would charge the CPU time of waiting to the model.
    "session.intra_op.allow_spinning": "0",
    # x86 processors without VNNI add pairs of 8-bit products in 16 bits and cut them off, unless weights are unsigned:
    # an int8 network of ours kept 3 dB of its own meaning there. Elsewhere it does nothing.
    WHOLE_PRODUCTS: "1",
}


def tunings(threads: int) -> tuple[Mapping[str, str], ...]:
    """List what is worth trying: nodes at once only where there are threads for them.

    >>> tunings(1)[:2], len(tunings(2))
    (({}, {'graph_optimization_level': 'extended'}), 8)
    """
    found = []
    for mode in VALUES[MODE] if threads > 1 else ["sequential"]:
        for level in VALUES[LEVEL]:
            wanted = {MODE: mode, LEVEL: level}
            found.append({name: value for name, value in wanted.items() if value != next(iter(VALUES[name]))})
    return tuple(found)


def chosen(options: Options) -> dict[str, str]:
    """Say what the runtime calls the value of each setting.

    Raises:
        UsageError: there is no such setting or value.
    """
    for name, value in options.settings.items():
        if value not in VALUES.get(name, ()):
            raise UsageError(f"expected a setting of {', '.join(VALUES)}, got {name}={value}")
    usual = {} if options.optimize else {LEVEL: "none"}
    asked = {**usual, **options.settings}
    return {name: known[asked.get(name, next(iter(known)))] for name, known in VALUES.items()}


def attributes(options: Options, runtime: Any) -> dict[str, Any]:
    """Give what a session's options are set to, by their names in ``runtime``, the imported package."""
    found = {name: getattr(getattr(runtime, _CLASSES[name]), value) for name, value in chosen(options).items()}
    return {**_threads(options), **found}


def lines(model: Path, options: Options) -> tuple[str, ...]:
    """Write a session as ``attributes`` and ``ENTRIES`` make it."""
    found = [f"options.{name} = {value}" for name, value in _threads(options).items()]
    found += [f"options.{name} = onnxruntime.{_CLASSES[name]}.{value}" for name, value in chosen(options).items()]
    found += [f'options.add_session_config_entry("{name}", "{value}")' for name, value in ENTRIES.items()]
    return (
        "import onnxruntime",
        "options = onnxruntime.SessionOptions()",
        *found,
        f'session = onnxruntime.InferenceSession("{model.name}", options, providers=["CPUExecutionProvider"])',
    )


def _threads(options: Options) -> dict[str, int]:
    """Nodes run at once have a pool of as many threads as one node has."""
    at_once = options.settings.get(MODE) == "parallel"
    return {"intra_op_num_threads": options.threads, "inter_op_num_threads": options.threads if at_once else 1}
