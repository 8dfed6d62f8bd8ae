"""Run a model and look at tensors inside it: as ONNX Runtime computes them in float32, without rewriting the graph.

Pairs of QuantizeLinear and DequantizeLinear are computed as they stand, so that what is seen of a model in int8 is its
meaning and not what one processor's integer kernels make of it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import onnx

from attn_export.errors import ExportError
from attn_export.export.graph import cut
from attn_export.export.onnx.save import save
from attn_export.types import Array, Feeds

#: Takes the inputs of a case, and gives the tensors that were asked for.
Look = Callable[[Feeds], dict[str, Array]]


@contextmanager
def watched(model: onnx.ModelProto, names: Sequence[str]) -> Iterator[Look]:
    """Open a model for looking at the tensors of these names; inputs are among what can be asked for.

    Raises:
        ExportError: the model does not run.
    """
    import onnxruntime

    inputs = {port.name for port in model.graph.input}
    inside = [name for name in dict.fromkeys(names) if name not in inputs]
    if not inside:
        yield lambda feeds: {name: feeds[name] for name in names}
        return
    part = cut.exposed(model, inside)
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = settings.inter_op_num_threads = 1
    settings.log_severity_level = 4
    settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    settings.add_session_config_entry("session.disable_quant_qdq", "1")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "part.onnx")
        save(part, path)
        try:
            session = onnxruntime.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])
        except Exception as error:  # the runtime's exceptions share no base class of their own
            raise ExportError(f"the model does not load, so nothing is known of its ranges: {error}") from error

        takes = {port.name for port in session.get_inputs()}

        def look(feeds: Feeds) -> dict[str, Array]:
            found = {name: feeds[name] for name in names if name in inputs}
            given = {name: value for name, value in feeds.items() if name in takes}
            try:
                return found | dict(zip(inside, session.run(inside, given), strict=True))
            except Exception as error:
                raise ExportError(f"the model does not run, so nothing is known of its ranges: {error}") from error

        yield look


def looked(model: onnx.ModelProto, names: Sequence[str], feeds: Iterable[Feeds]) -> Iterator[dict[str, Array]]:
    """Give the tensors of these names, case by case."""
    with watched(model, names) as look:
        for feed in feeds:
            yield look(feed)
