"""The process that QNN compiles in, and simulates.

    python -m attn_export.deploy_tests.backends.qnn.worker FOLDER

A graph is first built whole, with nothing allowed on the CPU. Where that is refused it is built once more with what the
NPU takes, and every node that stays on the CPU is listed. See ``compiling.child`` for what lies in ``FOLDER``.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from attn_export.deploy_tests.backends.qnn.quantize import quantize
from attn_export.deploy_tests.compiling import child, fixed_sizes
from attn_export.deploy_tests.refusal import Complaint, RefusedError
from attn_export.types import Feeds, JsonDict

CONTEXT, SIMULATED = "context.onnx", "simulated.npz"
PROVIDER = "QNNExecutionProvider"
WHO = "Qualcomm's QNN"
#: What ONNX Runtime writes in front of a reason, and appends to the names of nodes that it makes anew.
_CODE, _MADE = re.compile(r"^.*\[ONNXRuntimeError\] : \d+ : \w+ : "), re.compile(r"_token_\d+$")


def main(folder: Path) -> None:
    """Compile what ``folder`` asks for."""
    child.work(folder, build)


def build(folder: Path, request: JsonDict) -> JsonDict:
    """Compile, and run what is to be simulated.

    Raises:
        RefusedError: the sizes stay open, the quantiser breaks, or QNN takes no node.
    """
    import onnxruntime as ort
    import onnxruntime_qnn as qnn

    ort.set_default_logger_severity(3)
    ort.register_execution_provider_library(PROVIDER, qnn.get_library_path())
    model, feeds = Path(request["model"]), child.load(folder / child.FEEDS)
    sizes, symbols = fixed_sizes.fixed(ort, model, request["shapes"], WHO)
    if request["precision"] == "int8":
        model = _quantized(model, folder, feeds[: request["calibration"]])
    settings = {"backend_path": qnn.get_qnn_htp_path(), "soc_model": str(request["soc_model"]), **request["settings"]}
    refusal = ""
    try:
        session = _session(ort, model, folder / CONTEXT, settings, symbols, fallback=False)
    except Exception as error:  # ONNX Runtime raises a class for each of its codes, and QNN's are among them
        refusal = reason(error)
        (folder / CONTEXT).unlink(missing_ok=True)
        try:
            session = _session(ort, model, folder / CONTEXT, settings, symbols, fallback=True)
        except Exception as again:  # as above
            complaints = [Complaint("", "", text) for text in dict.fromkeys((refusal, reason(again)))]
            what = f"{WHO} does not build {request['model']}, whole or in parts"
            raise RefusedError(what, "build", complaints) from again
    placed = _placed(session)
    accelerator = [node for provider, node in placed if provider == PROVIDER]
    cpu = [node for provider, node in placed if provider != PROVIDER]
    if not accelerator:
        complaints = [Complaint(node["node"], node["op"], "it stays on the CPU") for node in cpu]
        raise RefusedError(f"{WHO} takes no node of {request['model']}", "build", complaints, refusal)
    simulated, warnings = _simulate(session, feeds[request["calibration"] :])
    child.save(folder / SIMULATED, simulated)
    quantized = any(node["op"] == "DequantizeLinear" for _, node in placed)
    return {
        "sizes": sizes,
        "accelerator": len(accelerator),
        "cpu": cpu,
        "refusal": refusal,
        "precision": "int8" if quantized else "float16",
        "runtime": ort.__version__,
        "warnings": warnings,
    }


def _quantized(model: Path, folder: Path, feeds: Sequence[Feeds]) -> Path:
    into = folder / "quantized.onnx"
    try:
        quantize(model, into, feeds)
    except Exception as error:  # the quantiser raises whatever it meets
        complaint = Complaint("", "", f"{type(error).__name__}: {error}")
        raise RefusedError(f"ONNX Runtime's quantiser does not take {model}", "start", [complaint]) from error
    return into


def _session(
    ort: Any, model: Path, context: Path, settings: Mapping[str, str], symbols: Mapping[str, int], *, fallback: bool
) -> Any:
    options = ort.SessionOptions()
    for name, size in symbols.items():
        options.add_free_dimension_override_by_name(name, size)
    entries = {
        "session.disable_cpu_ep_fallback": "0" if fallback else "1",
        "session.record_ep_graph_assignment_info": "1",
        "ep.context_enable": "1",
        "ep.context_embed_mode": "1",
        "ep.context_file_path": str(context),
    }
    for name, value in entries.items():
        options.add_session_config_entry(name, value)
    devices = [device for device in ort.get_ep_devices() if device.ep_name == PROVIDER]
    options.add_provider_for_devices(devices, dict(settings))
    return ort.InferenceSession(str(model), options)


def _placed(session: Any) -> list[tuple[str, dict[str, str]]]:
    """List who runs each node of the graph as ONNX Runtime has prepared it."""
    return [
        (part.ep_name, {"node": _MADE.sub("", node.name), "op": node.op_type})
        for part in session.get_provider_graph_assignment_info()
        for node in part.get_nodes()
    ]


def _simulate(session: Any, feeds: Sequence[Feeds]) -> tuple[list[dict[str, Any]], list[str]]:
    """Run on the simulator what is to be run; a build stays one where the simulator breaks, and that is a warning."""
    outputs = [output.name for output in session.get_outputs()]
    try:
        return [dict(zip(outputs, session.run(None, dict(one)), strict=True)) for one in feeds], []
    except Exception as error:  # as above
        return [], [f"the simulator broke: {reason(error)}"]


def reason(error: Exception) -> str:
    """Say what ONNX Runtime gave as a reason, without its code.

    >>> reason(RuntimeError("[ONNXRuntimeError] : 11 : EP_FAIL : Failed to finalize QNN graph."))
    'Failed to finalize QNN graph.'
    """
    return _CODE.sub("", str(error).strip().splitlines()[0]) if str(error).strip() else type(error).__name__


if __name__ == "__main__":
    main(Path(sys.argv[1]))
