"""Which runtime measured: a backend's own name, the runtime's version, and what it ran on, each by itself."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass

from attn_export.deploy_tests.backends import found, traits


@dataclass(frozen=True)
class RuntimeIdentity:
    """What a report says of the runtime: two runs can be compared where all three are equal."""

    backend: str
    version: str
    device: str

    def to_dict(self) -> dict[str, str]:
        """Give plain data."""
        return asdict(self)


def identify(backend: str) -> RuntimeIdentity:
    """Tell which runtime a backend is here; it must not be missing.

    The version is the first number of the line in which the backend names itself.

    Raises:
        UnknownNameError, BackendError: there is no such backend, or it cannot be imported.
    """
    return RuntimeIdentity(backend, version_of(found(backend).version()), traits(backend).device)


def version_of(line: str) -> str:
    """Find the version in a runtime's line about itself; the whole line where there is no number in it.

    >>> version_of("ONNX Runtime 1.32.0, CPU"), version_of("TensorRT 10.3.0, CUDA 12.4"), version_of("emulated")
    ('1.32.0', '10.3.0', 'emulated')
    """
    number = re.search(r"\d+(?:\.\d+)+[\w.+-]*", line)
    return number[0].rstrip(".-+") if number else line
