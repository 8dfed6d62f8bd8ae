"""The engine inspector's JSON of TensorRT 10 and 11 in the one schema of ``plan``.

What differs: ``Bindings`` (names) became ``I/O Tensors`` (objects), and a tensor's ``Format/Datatype`` was split into
``Format`` and ``Datatype``. An engine built without detailed verbosity lists layers as bare names.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from attn_export.deploy_tests.backends.tensorrt import bindings
from attn_export.deploy_tests.backends.tensorrt.plan import EngineLayer, EnginePlan, Tensor, dtype_of, nodes_of
from attn_export.deploy_tests.backends.tensorrt.run import EngineRun
from attn_export.errors import BackendError


def inspect(run: EngineRun) -> EnginePlan:
    """Read the plan of an engine that is open.

    Raises:
        BackendError: the inspector gives nothing that can be read.
    """
    if TYPE_CHECKING:
        import tensorrt as trt
    else:
        trt = bindings.load(run.request.maker)
    inspector = run.engine.create_engine_inspector()
    if inspector is None:
        raise BackendError(f"{run.title} gives no inspector")
    text = inspector.get_engine_information(trt.LayerInformationFormat.JSON)
    try:
        return read(text)
    except ValueError as error:
        raise BackendError(f"{run.title}: what the inspector says cannot be read: {error}") from error


def read(text: str) -> EnginePlan:
    """Read the inspector's JSON.

    Raises:
        ValueError: it is no such JSON.
    """
    raw = json.loads(text or "null")
    if not isinstance(raw, dict) or not isinstance(raw.get("Layers"), list):
        raise ValueError(f"there are no Layers in {text[:80]!r}")
    return EnginePlan(tuple(_layer(item) for item in raw["Layers"]), {})


def ports(text: str) -> tuple[str, ...]:
    """Names of inputs and outputs, from either form."""
    raw = json.loads(text)
    items = raw.get("I/O Tensors", raw.get("Bindings", []))
    return tuple(item["Name"] if isinstance(item, Mapping) else str(item) for item in items)


def _layer(item: Any) -> EngineLayer:
    if isinstance(item, str):
        return EngineLayer(item, "", (), (), ())
    if not isinstance(item, Mapping) or "Name" not in item:
        raise ValueError(f"not a layer: {item!r}")
    inputs, outputs = (tuple(map(_tensor, item.get(key, []))) for key in ("Inputs", "Outputs"))
    tactic = item.get("TacticName") or item.get("TacticValue") or ""
    nodes = nodes_of(str(item.get("Metadata", "")).replace("\x1e", ""))
    return EngineLayer(item["Name"], item.get("LayerType", ""), inputs, outputs, nodes, str(tactic))


def _tensor(item: Mapping[str, Any]) -> Tensor:
    layout = str(item.get("Format") or item.get("Format/Datatype") or "")
    dtype = dtype_of(str(item.get("Datatype") or layout))
    return Tensor(str(item.get("Name", "")), dtype, tuple(int(n) for n in item.get("Dimensions", [])), layout)
