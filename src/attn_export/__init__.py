"""Fuse, export and prove vision mechanisms for edge devices.

    import attn_export as ax

    result = ax.deploy(model, (example,), fuse=True, output="repvgg")
    ax.verify("repvgg")

Names are found here and imported when they are asked for; importing this costs nothing.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False  # as that of ``typing``, whose import would be half of what this costs
if TYPE_CHECKING:
    from typing import Any

    from attn_export.api import assert_parity as assert_parity
    from attn_export.api import bench as bench
    from attn_export.api import deploy as deploy
    from attn_export.api import diff as diff
    from attn_export.api import fuse as fuse
    from attn_export.api import insert as insert
    from attn_export.api import load as load
    from attn_export.api import read_bundle as read_bundle
    from attn_export.api import verify as verify
    from attn_export.deploy_tests.measurement import MeasureOptions as MeasureOptions
    from attn_export.errors import AttnExportError as AttnExportError
    from attn_export.errors import BackendError as BackendError
    from attn_export.errors import BackendMissingError as BackendMissingError
    from attn_export.errors import BundleError as BundleError
    from attn_export.errors import CheckpointError as CheckpointError
    from attn_export.errors import ContractError as ContractError
    from attn_export.errors import ConversionError as ConversionError
    from attn_export.errors import DeviceError as DeviceError
    from attn_export.errors import ExportError as ExportError
    from attn_export.errors import FetchError as FetchError
    from attn_export.errors import FusionError as FusionError
    from attn_export.errors import GateError as GateError
    from attn_export.errors import InconclusiveError as InconclusiveError
    from attn_export.errors import LoadError as LoadError
    from attn_export.errors import ParityError as ParityError
    from attn_export.errors import SubjectError as SubjectError
    from attn_export.errors import UnknownNameError as UnknownNameError
    from attn_export.errors import UsageError as UsageError
    from attn_export.errors import WriteError as WriteError
    from attn_export.pipeline.progress import Progress as Progress
    from attn_export.types import Dim as Dim
    from attn_export.types import TensorSpec as TensorSpec

__version__ = "0.1.0"

# ONNX Runtime sends telemetry unless told not to, and writes to the home folder when it is imported. Whatever of ours
# is imported first passes here, and children inherit it. What the user has set himself stands.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

_MODULES = {
    "api": ("assert_parity", "bench", "deploy", "diff", "fuse", "insert", "load", "read_bundle", "verify"),
    "deploy_tests.measurement": ("MeasureOptions",),
    "errors": (
        "AttnExportError",
        "BackendError",
        "BackendMissingError",
        "BundleError",
        "CheckpointError",
        "ContractError",
        "ConversionError",
        "DeviceError",
        "ExportError",
        "FetchError",
        "FusionError",
        "GateError",
        "InconclusiveError",
        "LoadError",
        "ParityError",
        "SubjectError",
        "UnknownNameError",
        "UsageError",
        "WriteError",
    ),
    "pipeline.progress": ("Progress",),
    "types": ("Dim", "TensorSpec"),
}
_HOMES = {name: module for module, names in _MODULES.items() for name in names}

__all__ = ["__version__", *sorted(_HOMES)]  # noqa: PLE0604  # all are strings


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
