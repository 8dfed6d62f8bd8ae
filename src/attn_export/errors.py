"""Every error that the project raises on purpose, and the exit code each one means.

    AttnExportError                         3
    ├── UsageError                          2   the command line asks for what cannot be
    │   └── UnknownNameError                2   no entry of that name; says which are near
    ├── LoadError                           3   could not load or read
    │   ├── SubjectError                    3   a module, factory or ONNX file
    │   ├── CheckpointError                 3   weights that do not fit
    │   └── BundleError                     3   a bundle that is not whole
    ├── ConversionError                     3   could not convert
    │   ├── FusionError                     3   a module that must not be fused as it is
    │   │   └── UntraceableError            3   what is inside cannot be followed (reparam.parts)
    │   ├── ExportError                     3   the exporter failed
    │   │   └── RefusedOperatorError        3   an operator that the evaluation does not claim (reparam.proof.claims)
    │   └── ContractError                   3   the exporter gave something else than was asked for
    │       └── FixedSizeError              3   a number where a size was to vary (export.onnx.contract)
    ├── WriteError                          3   the disk is full, or the folder is read-only
    ├── DeviceError                         3   a machine over ssh cannot be reached, or refuses
    ├── GateError                           1   a proof failed: parity, certificate, budget
    │   └── ParityError                     1   a model and its reference differ; an AssertionError, too
    ├── BackendMissingError                 4   a required backend is not available
    ├── FetchError                          4   weights that lie elsewhere, and no package or network to bring them
    ├── BackendError                        3   a backend refused or broke on a model
    │   ├── RefusedError                    3   a compiler says no; names the nodes (deploy_tests.refusal)
    │   ├── GpuError                        3   a CUDA call failed (backends.tensorrt.cuda)
    │   └── HangError                       3   the GPU did not answer in time (backends.tensorrt.cuda)
    └── InconclusiveError                   5   vacuous, or too noisy to say

A message says what was wanted, what came, and the way out.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from attn_export.deploy_tests.latency.comparison import LatencyComparison
    from attn_export.deploy_tests.parity.compare import Parity


class AttnExportError(Exception):
    """The base of all: catch this to catch whatever the project raises on purpose."""

    exit_code: ClassVar[int] = 3


class UsageError(AttnExportError):
    """The command line, or a call, asks for what cannot be."""

    exit_code = 2


class UnknownNameError(UsageError):
    """No entry of that name.

    >>> str(UnknownNameError("mechanism", "tripplet", ["triplet", "se"]))
    "there is no mechanism 'tripplet'; did you mean 'triplet'?"
    """

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        names = sorted(known)
        near = difflib.get_close_matches(name, names, n=3, cutoff=0.6)
        if near:
            hint = "did you mean " + " or ".join(repr(n) for n in near) + "?"
        else:
            hint = f"known: {', '.join(names)}" if len(names) <= 12 else f"`attn-export list` names all {len(names)}"
        super().__init__(f"there is no {kind} {name!r}; {hint}")
        self.name = name
        self.near = near


class LoadError(AttnExportError):
    """Could not load or read."""


class SubjectError(LoadError):
    """A module, a factory or an ONNX file that cannot be loaded or run."""


class CheckpointError(LoadError):
    """Weights that cannot be read or do not fit the module."""


class BundleError(LoadError):
    """A bundle that is not whole, or not of a known schema."""


class ConversionError(AttnExportError):
    """Could not convert."""


class FusionError(ConversionError):
    """A module that must not be fused as it is, such as one in training mode."""


class ExportError(ConversionError):
    """The exporter or simplifier failed."""


class ContractError(ConversionError):
    """The exporter gave something else than was asked for."""


class WriteError(AttnExportError):
    """The result could not be written; what was there before is intact."""


class DeviceError(AttnExportError):
    """A machine that was to be used over ssh cannot be reached, or does not take what is brought to it."""


class GateError(AttnExportError):
    """A proof failed: parity, the fusion certificate, or a budget.

    Attributes:
        parity: the comparison that failed, where that was parity.
        stage: after which stage of the pipeline, where that is known.
    """

    exit_code = 1

    def __init__(self, message: str, *, parity: Parity | None = None, stage: str | None = None) -> None:
        super().__init__(message)
        self.parity = parity
        self.stage = stage


class ParityError(GateError, AssertionError):
    """A model does not compute what its reference does; an ``AssertionError`` too, for tests."""


class BackendMissingError(AttnExportError):
    """A backend that was required is not available on this machine."""

    exit_code = 4


class FetchError(AttnExportError):
    """What lies elsewhere cannot be brought here: a package or the network is missing, or it is not there."""

    exit_code = 4


class BackendError(AttnExportError):
    """A backend that is there refused a model, or broke on it."""


class InconclusiveError(AttnExportError):
    """The evidence says nothing: a vacuous check, or a measurement too noisy to compare.

    Attributes:
        comparison: the measurement that was too noisy, where that was it.
    """

    exit_code = 5

    def __init__(self, message: str, *, comparison: LatencyComparison | None = None) -> None:
        super().__init__(message)
        self.comparison = comparison
