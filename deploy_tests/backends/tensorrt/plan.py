"""The fused plan of an engine, in one schema, read from the text that the verbose log of a build ends with.

The text lists, under ``Layers:``, one kernel a line as ``Name: …, LayerType: …, Inputs: [ { … } ], …``; ``Metadata``
names the ONNX nodes a kernel computes. Memory stands elsewhere in the log, in bytes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

#: Kernels of this name are fused attention (measured on TensorRT for RTX 1.7.1: ``_gemm_mha_v2_myl0_7``).
_ATTENTION = re.compile(r"(^|_)f?mha(_|\b)|flash_?attention", re.IGNORECASE)
_NODE = re.compile(r"\[ONNX Layer: ([^\]]*)\]")
_MEMORY = {
    "scratch": re.compile(r"Max Scratch Memory: (\d+) bytes"),
    "activation": re.compile(r"Total Activation Memory: (\d+) bytes"),
    "weights": re.compile(r"Total Weights Memory: (\d+) bytes"),
    "persistent": re.compile(r"Total Device Persistent Memory: (\d+) bytes"),
}


@dataclass(frozen=True)
class Tensor:
    """What goes into or comes out of a kernel; ``dtype`` in NumPy's words, ``layout`` in TensorRT's."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    layout: str = ""


@dataclass(frozen=True)
class EngineLayer:
    """One step of the plan, usually one kernel.

    Attributes:
        name: TensorRT's name.
        kind: TensorRT's type, such as ``gemm``, ``correlation`` (a convolution) or ``kgen`` (generated code).
        inputs: without constants.
        outputs: what it computes.
        nodes: the ONNX nodes it was made from.
        tactic: name of the kernel.
    """

    name: str
    kind: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    nodes: tuple[str, ...]
    tactic: str = ""

    @property
    def is_attention(self) -> bool:
        """Whether both products and the softmax of an attention block are this one kernel."""
        return bool(_ATTENTION.search(self.name) or _ATTENTION.search(self.tactic))


@dataclass(frozen=True)
class EnginePlan:
    """The layers of an engine in order, and its memory in bytes."""

    layers: tuple[EngineLayer, ...]
    memory: dict[str, int]

    @property
    def kernels(self) -> tuple[EngineLayer, ...]:
        """The layers that run on the GPU: those that only compute shapes, on the host, are left out."""
        return tuple(layer for layer in self.layers if layer.kind != "shape_call")

    @property
    def attention(self) -> tuple[EngineLayer, ...]:
        """The fused attention kernels."""
        return tuple(layer for layer in self.layers if layer.is_attention)

    @property
    def dtypes(self) -> dict[str, int]:
        """How many layers give each element type."""
        found: dict[str, int] = {}
        for layer in self.layers:
            for dtype in dict.fromkeys(tensor.dtype for tensor in layer.outputs):
                found[dtype] = found.get(dtype, 0) + 1
        return dict(sorted(found.items()))

    def made_from(self, node: str) -> tuple[EngineLayer, ...]:
        """Find the layers that compute an ONNX node."""
        return tuple(layer for layer in self.layers if node in layer.nodes)

    def to_dict(self) -> dict[str, Any]:
        """Give the plan as plain data."""
        return {
            "kernels": len(self.kernels),
            "fused_attention": len(self.attention),
            "dtypes": self.dtypes,
            "memory_bytes": self.memory,
            "layers": [asdict(layer) for layer in self.layers],
        }


_DTYPES = {
    "float": "float32", "fp32": "float32", "half": "float16", "fp16": "float16", "bfloat16": "bfloat16",
    "bf16": "bfloat16", "int8": "int8", "int32": "int32", "int64": "int64", "bool": "bool", "uint8": "uint8",
    "fp8": "float8_e4m3fn", "int4": "int4",
}  # fmt: skip


def dtype_of(text: str) -> str:
    """Read an element type, also out of the 10.x form that carries it inside the format.

    >>> dtype_of("Half"), dtype_of("Row major linear FP32 format")
    ('float16', 'float32')
    """
    for word in text.replace("(", " ").split():
        if name := _DTYPES.get(word.lower()):
            return name
    return text.lower()


def nodes_of(metadata: str) -> tuple[str, ...]:
    """ONNX nodes named in a layer's metadata, each once."""
    return tuple(dict.fromkeys(_NODE.findall(metadata)))


def read_log(log: Iterable[tuple[str, str]]) -> EnginePlan:
    """Read the plan out of a build's log.

    Raises:
        ValueError: there is no plan in it, or a line of it cannot be read.
    """
    layers: list[EngineLayer] = []
    memory: dict[str, int] = {}
    seen = False
    for _, message in log:
        for name, pattern in _MEMORY.items():
            if match := pattern.search(message):
                memory[name] = int(match[1])
        text = message.lstrip()
        if text.startswith("Layers:"):
            seen = True
            lines = text.partition("\n")[2].split("\n\n")[0].splitlines()
            layers += [read_layer(line) for line in lines if line.strip()]
    if not seen or not layers:
        raise ValueError("the log shows no plan: was it verbose, and profiling_verbosity DETAILED?")
    return EnginePlan(tuple(layers), memory)


_HEAD = re.compile(r"Name: (?P<name>.*?), LayerType: (?P<kind>[^,]*)")
_FIELD = re.compile(r", (?P<key>Inputs|Constants|Outputs|TacticName|StreamId|Metadata): ?")
_TENSOR = re.compile(
    r"\{ Name: (?P<name>.*?), (?:Location: [^,]*, )?Dimensions: \[(?P<shape>[-\d, ]*)\]"
    r".*?Datatype: (?P<dtype>[^,}]*?)(?:, Format: (?P<layout>.*?))? \}(?=,| \]|\])"
)


def read_layer(line: str) -> EngineLayer:
    """Read one line of the plan.

    Raises:
        ValueError: it is not of the known form.
    """
    head = _HEAD.match(line.strip())
    if head is None:
        raise ValueError(f"not a layer of a plan: {line[:120]!r}")
    rest = line.strip()[head.end() :]
    marks = list(_FIELD.finditer(rest))
    ends = [mark.start() for mark in marks[1:]] + [len(rest)]
    fields = {mark["key"]: rest[mark.end() : end] for mark, end in zip(marks, ends, strict=True)}
    return EngineLayer(
        head["name"],
        head["kind"].strip(),
        _tensors(fields.get("Inputs", "")),
        _tensors(fields.get("Outputs", "")),
        nodes_of(fields.get("Metadata", "")),
        fields.get("TacticName", "").strip(),
    )


def _tensors(text: str) -> tuple[Tensor, ...]:
    return tuple(
        Tensor(m["name"], dtype_of(m["dtype"]), _shape(m["shape"].split(",")), (m["layout"] or "").strip())
        for m in _TENSOR.finditer(text)
    )


def _shape(numbers: Sequence[str]) -> tuple[int, ...]:
    return tuple(int(n) for n in numbers if n.strip())
