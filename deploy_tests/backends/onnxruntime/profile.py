"""ONNX Runtime's own profile of a run, read back into the words of the graph.

The runtime renames what it optimises: a convolution in its blocked layout is called after the tensor it now makes
(``relu_nchwc``), one that took an activation in is ``fused …``, and reorders are its own.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from attn_export.deploy_tests.backend import Kernel
from attn_export.deploy_tests.backends.onnxruntime import tuning
from attn_export.deploy_tests.backends.onnxruntime.feeding import fed
from attn_export.errors import BackendError, BackendMissingError
from attn_export.types import Feeds

_SUFFIX = re.compile(r"(_nchwc|_kernel_time|_fused|/duplicated|_token_\d+)+$")
#: Runtime kernels that stand for another operator of the graph.
_STANDS_FOR = {"FusedConv": "Conv", "FusedMatMul": "MatMul", "FusedGemm": "Gemm", "QuickGelu": "Sigmoid"}
#: The percentile that stands for a kernel: a high one tells what else ran on the machine, not what the kernel costs.
LOW = 10


def record(model: Path, feeds: Feeds, threads: int, runs: int) -> tuple[Kernel, ...]:
    """Run under the profiler; the undisturbed time of each kernel, in the order in which they first ran."""
    try:
        import onnxruntime
    except ImportError as error:
        raise BackendMissingError("ONNX Runtime is not installed: pip install onnxruntime") from error
    with tempfile.TemporaryDirectory() as folder:
        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads, settings.inter_op_num_threads = threads, 1
        settings.log_severity_level = 3
        settings.add_session_config_entry("session.set_denormal_as_zero", "1")
        settings.add_session_config_entry(tuning.WHOLE_PRODUCTS, "1")
        settings.enable_profiling = True
        settings.profile_file_prefix = str(Path(folder) / "profile")
        try:
            session = onnxruntime.InferenceSession(str(model), settings, providers=["CPUExecutionProvider"])
            for _ in range(runs + 3):
                fed(session, feeds)
            text = Path(session.end_profiling()).read_text(encoding="utf-8")
        except Exception as error:  # the runtime's exceptions share no base class of their own
            raise BackendError(f"ONNX Runtime {onnxruntime.__version__} does not profile {model}: {error}") from error
    return kernels(json.loads(text), skip=3)


def kernels(events: Sequence[Mapping[str, Any]], skip: int = 0) -> tuple[Kernel, ...]:
    """Read the profiler's events; the first ``skip`` runs of each kernel warm up."""
    times: dict[tuple[str, str, str], list[float]] = defaultdict(list)
    for event in events:
        name = str(event.get("name", ""))
        if event.get("cat") == "Node" and name.endswith("_kernel_time"):
            arguments = event.get("args", {})
            key = (
                name.removesuffix("_kernel_time"),
                arguments.get("op_name", ""),
                str(arguments.get("node_index", "")),
            )
            times[key].append(float(event.get("dur", 0)))
    return tuple(kernel(name, op, _low(values[skip:] or values)) for (name, op, _), values in times.items())


def kernel(name: str, op: str, microseconds: float) -> Kernel:
    """Say what the graph calls a kernel, where the runtime calls it otherwise.

    >>> kernel("relu_nchwc", "Conv", 1.0).origin, kernel("fused head", "FusedGemm", 1.0).first_op
    ('relu', 'Gemm')
    """
    origin = _SUFFIX.sub("", name).removeprefix("fused ").strip()
    return Kernel(name, op, microseconds, origin=origin if origin != name else "", first_op=_STANDS_FOR.get(op, ""))


def _low(values: Sequence[float]) -> float:
    return float(np.percentile(values, LOW, method="inverted_cdf"))
