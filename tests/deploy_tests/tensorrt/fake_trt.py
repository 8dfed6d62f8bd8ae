"""A small engine behind TensorRT's names, for the half that needs a GPU: y = 2x + 1, computed in the double's memory.

Its classes derive from NVIDIA's where types are checked, so mypy compares every method with the official stubs; when
it runs they stand alone. ``REFUSE`` makes a call give what the real one gives when it fails.
"""

from __future__ import annotations

import ctypes
import enum
import json
import weakref
from typing import TYPE_CHECKING, Any

import numpy as np
from typing_extensions import override

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import SupportsInt

    from tensorrt import EngineInspector as RealInspector
    from tensorrt import ICudaEngine as RealEngine
    from tensorrt import IExecutionContext as RealContext
    from tensorrt import ILogger as RealLogger
    from tensorrt import IOutputAllocator as RealAllocator
    from tensorrt import IProfiler as RealProfiler
    from tensorrt import Runtime as RealRuntime
else:
    RealInspector = RealEngine = RealContext = RealLogger = RealAllocator = RealProfiler = RealRuntime = object

__version__ = "10.3.0"
REFUSE: dict[str, Any] = {}
#: A kernel as the double of libcudart takes it, which runs it now or when the graph is launched; the fixture loads it.
_WORK = ctypes.CFUNCTYPE(None)
LIBRARY: Any = None
LIVE: weakref.WeakSet[Any] = weakref.WeakSet()
INSPECTED = json.dumps(
    {"Layers": [{"Name": "double_it", "LayerType": "kgen", "Metadata": "[ONNX Layer: mul]"}], "Bindings": ["x", "y"]}
)


def given(call: str, otherwise: Any) -> Any:
    return REFUSE.get(call, otherwise)


class DataType(enum.Enum):
    FLOAT = 0
    HALF = 1
    INT64 = 8
    BF16 = 7


class TensorIOMode(enum.Enum):
    INPUT = 1
    OUTPUT = 2


class TensorLocation(enum.Enum):
    DEVICE = 0
    HOST = 1


class LayerInformationFormat(enum.Enum):
    JSON = 1


class ILogger(RealLogger):
    class Severity(enum.Enum):
        ERROR = 1

    def complain(self, text: str) -> None:
        self.log(self.Severity.ERROR, text)  # type: ignore[arg-type]  # an enumeration of our own


class IProfiler(RealProfiler):
    pass


class IOutputAllocator(RealAllocator):
    pass


class Runtime(RealRuntime):
    def __init__(self, logger: Any) -> None:
        if "Runtime" in REFUSE:
            logger.complain("no driver")
            raise TypeError("factory function returned nullptr")  # what the binding makes of a null pointer
        self.log = logger

    @override
    def deserialize_cuda_engine(self, serialized_engine: Any) -> Any:
        if "deserialize_cuda_engine" in REFUSE or not bytes(serialized_engine).startswith(b"{"):
            self.log.complain("the engine is of another version")
            return None
        return Engine(self.log, json.loads(serialized_engine))


class Engine(RealEngine):
    """Ports by name: element type, shape with -1 for open dimensions, input or output, host or device."""

    def __init__(self, logger: Any, ports: dict[str, dict[str, Any]]) -> None:
        self.log, self.ports = logger, ports
        LIVE.add(self)

    @property
    @override
    def num_io_tensors(self) -> int:
        return len(self.ports)

    @override
    def create_execution_context(self, *_args: Any, **_kwargs: Any) -> Any:
        return given("create_execution_context", Context(self))

    @override
    def get_tensor_name(self, index: SupportsInt) -> str:
        return list(self.ports)[int(index)]

    @override
    def get_tensor_dtype(self, name: str) -> Any:
        return DataType[self.ports[name]["dtype"]]

    @override
    def get_tensor_mode(self, name: str) -> Any:
        return TensorIOMode[self.ports[name]["mode"]]

    @override
    def get_tensor_location(self, name: str) -> Any:
        return TensorLocation[self.ports[name].get("place", "DEVICE")]

    @override
    def create_engine_inspector(self) -> Any:
        return given("create_engine_inspector", Inspector())


class Inspector(RealInspector):
    @override
    def get_engine_information(self, format: Any) -> str:  # NVIDIA's name
        return str(given("get_engine_information", INSPECTED))


class Context(RealContext):
    def __init__(self, engine: Engine) -> None:
        self.ports, self.log = engine.ports, engine.log
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.addresses: dict[str, int] = {}
        self.allocators: dict[str, Any] = {}
        self.runs = 0
        LIVE.add(self)

    @override
    def set_input_shape(self, name: str, shape: Any) -> bool:
        wanted = self.ports[name]["shape"]
        fits = len(shape) == len(wanted) and all(w in (-1, s) for w, s in zip(wanted, shape, strict=True))
        if not fits or max(shape) > 64 or "set_input_shape" in REFUSE:
            self.log.complain("the shape lies outside the profile")
            return False
        self.shapes[name] = tuple(shape)
        return True

    @override
    def infer_shapes(self) -> Any:
        return given("infer_shapes", [])

    @override
    def get_tensor_shape(self, name: str) -> Any:
        if self.ports[name].get("depends_on_data"):
            return (-1, *self.shapes["x"][1:])
        return self.shapes["x"]

    @override
    def set_tensor_address(self, name: str, memory: SupportsInt) -> bool:
        if REFUSE.get("set_tensor_address") == name:
            return False
        self.addresses[name] = int(memory)
        return int(memory) != 0

    @override
    def set_output_allocator(self, name: str, output_allocator: Any) -> bool:
        self.allocators[name] = output_allocator
        return bool(given("set_output_allocator", True))

    @override
    def execute_async_v3(self, stream_handle: SupportsInt) -> bool:
        if "execute_async_v3" in REFUSE:
            self.log.complain("cannot enqueue")
            return False
        assert int(stream_handle), "on the default stream"
        self.runs += 1
        if self.allocators:  # they are asked for memory while the engine is queued
            return self._compute(int(stream_handle))
        self.kernel = _WORK(lambda: self._compute(int(stream_handle)) and None)  # alive as long as a graph may want it
        return not LIBRARY.double_run(self.kernel)

    def _compute(self, stream: int) -> bool:
        kind = {"FLOAT": np.float32, "HALF": np.float16}[self.ports["x"]["dtype"]]
        x = self._at(self.addresses["x"], self.shapes["x"], kind)
        for name, port in self.ports.items():
            if port["mode"] != "OUTPUT":
                continue
            y = (2 * x + 1).astype(kind)
            if name in self.allocators:
                y = y[: max(1, len(y) // 2)]
                address = self.allocators[name].reallocate_output_async(name, 0, y.nbytes, 256, stream)
                if not address:
                    self.log.complain("no memory for an output")
                    return False
                if "notify_shape" not in REFUSE:
                    self.allocators[name].notify_shape(name, y.shape)
            else:
                address = self.addresses[name]
            if y.nbytes:
                ctypes.memmove(address, np.ascontiguousarray(y).ctypes.data, y.nbytes)
        profiler = getattr(self, "profiler", None)
        if profiler is not None and "report_layer_time" not in REFUSE:
            profiler.report_layer_time("double_it", 0.25)
        return True

    @override
    def report_to_profiler(self) -> bool:
        return bool(given("report_to_profiler", True))

    @staticmethod
    def _at(address: int, shape: Sequence[int], kind: Any) -> Any:
        size = int(np.prod(shape)) * np.dtype(kind).itemsize
        return np.frombuffer(ctypes.string_at(address, size), kind).reshape(shape)
