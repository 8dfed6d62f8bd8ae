"""Which layers of a compiled model multiply integers, read back from what OpenVINO has made of the graph."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from attn_export.errors import BackendError

#: What OpenVINO calls the operators that multiply by weights, and the element types of eight bits.
LAYERS = frozenset({"Convolution", "Deconvolution", "FullyConnected", "MatMul"})
EIGHT_BITS = frozenset({"i8", "u8"})


@dataclass(frozen=True)
class Kernels:
    """The layers of a compiled model.

    Attributes:
        integer: how many multiply integers.
        others: how many compute in another element type, by its name.
    """

    integer: int
    others: dict[str, int]

    def refuse_none(self, who: str) -> None:
        """Refuse a model of which no layer multiplies integers: it was to be int8, and its figures would be another's.

        Raises:
            BackendError: it is so.
        """
        if not self.integer:
            got = ", ".join(f"{count} in {name}" for name, count in self.others.items()) or "no layer at all"
            raise BackendError(
                f"{who}: expected layers that multiply integers, got {got}: this processor may have no int8 kernels;"
                " run it where there are, or take the float32 model"
            )


def kernels(operators: Iterable[Mapping[str, str]]) -> Kernels:
    """Count the layers by the element type that they compute in.

    >>> conv = {"layerType": "Convolution", "runtimePrecision": "u8"}
    >>> kernels([conv, {"layerType": "MatMul", "runtimePrecision": "f32"}, {"layerType": "Reorder"}])
    Kernels(integer=1, others={'f32': 1})
    """
    found = Counter(one.get("runtimePrecision", "") for one in operators if one.get("layerType") in LAYERS)
    others = {name: count for name, count in found.items() if name not in EIGHT_BITS}
    return Kernels(found.total() - sum(others.values()), others)


def read(compiled: Any) -> Kernels:
    """Read a compiled model."""
    facts = []
    for operator in compiled.get_runtime_model().get_ops():
        info = operator.get_rt_info()
        facts.append({name: str(info[name].astype(str)) for name in ("layerType", "runtimePrecision") if name in info})
    return kernels(facts)
