"""A deserialised engine as a ``Run``: feeds in, outputs in host memory out, every refusal an error."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from attn_export.deploy_tests.backends.tensorrt import bindings
from attn_export.deploy_tests.backends.tensorrt.build import make_logger
from attn_export.deploy_tests.backends.tensorrt.cuda import TO_DEVICE, TO_HOST, Device, Handle
from attn_export.deploy_tests.backends.tensorrt.request import Request
from attn_export.errors import BackendError
from attn_export.types import Feeds

if TYPE_CHECKING:
    import tensorrt

#: NumPy has no bfloat16 or float8; a model keeps those inside and casts at its borders.
_DTYPES = {
    "FLOAT": "float32", "HALF": "float16", "INT8": "int8", "INT32": "int32", "INT64": "int64", "BOOL": "bool",
    "UINT8": "uint8",
}  # fmt: skip


@dataclass
class Binding:
    """One input or output while the engine is open: element type, place, and the memory it has so far."""

    name: str
    dtype: np.dtype[Any]
    on_host: bool
    shape: tuple[int, ...] = ()
    depends_on_data: bool = False
    device: Handle | None = None
    host: Handle | None = None

    @property
    def size(self) -> int:
        """Bytes at the present shape."""
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize


@dataclass
class EngineRun:
    """A ``Run`` over an engine. Between calls memory is kept and grows when a shape needs more."""

    request: Request
    title: str
    engine: tensorrt.ICudaEngine
    context: tensorrt.IExecutionContext
    device: Device
    stream: Handle
    inputs: dict[str, Binding]
    outputs: dict[str, Binding]
    errors: list[str]
    growing: dict[str, Growing] = field(default_factory=dict)
    keep: tuple[Any, ...] = field(default=(), repr=False)

    def __call__(self, feeds: Feeds) -> dict[str, NDArray[Any]]:
        """Run once; the outputs are copies in host memory."""
        self.bind(feeds)
        self.upload()
        self.enqueue()
        self.download()
        return self.collect()

    def bind(self, feeds: Feeds) -> None:
        """Check the feeds, set shapes, provide memory, tell the engine the addresses and stage the inputs."""
        self.errors.clear()
        if set(feeds) != set(self.inputs):
            raise BackendError(f"{self.title} expects the inputs {sorted(self.inputs)}, got {sorted(feeds)}")
        for name, port in self.inputs.items():
            value = np.asarray(feeds[name])
            if value.dtype != port.dtype:
                raise BackendError(f"{self.title} expects {port.dtype} for input {name!r}, got {value.dtype}")
            port.shape = value.shape
            if not self.context.set_input_shape(name, value.shape):
                raise self._failure(f"refuses shape {value.shape} for input {name!r}; it lies outside the profile")
            self._provide(port)
            self._stage(port, value)
        if unclear := self.context.infer_shapes():
            raise self._failure(f"cannot infer shapes; insufficiently specified: {', '.join(unclear)}")
        for name, port in self.outputs.items():
            shape = tuple(self.context.get_tensor_shape(name))
            port.depends_on_data = -1 in shape
            if port.depends_on_data:
                growth = self.growing.setdefault(name, Growing(self.request, self.device, name))
                if not self.context.set_output_allocator(name, growth.as_allocator()):
                    raise self._failure(f"refuses an allocator for output {name!r}, whose shape depends on data")
                continue
            port.shape = shape
            self._provide(port)

    def _provide(self, port: Binding) -> None:
        port.host = self._grown(port.host, port.size, self.device.pinned)
        if port.on_host:
            address = port.host.address
        else:
            port.device = self._grown(port.device, port.size, self.device.memory)
            address = port.device.address
        if not self.context.set_tensor_address(port.name, address):
            raise self._failure(f"refuses the memory for {port.name!r}")

    @staticmethod
    def _grown(now: Handle | None, size: int, make: Callable[[int], Handle]) -> Handle:
        if now is not None and now.live and now.size >= size:
            return now
        if now is not None:
            now.free()
        return make(size)

    @staticmethod
    def _stage(port: Binding, value: NDArray[Any]) -> None:
        assert port.host is not None
        if port.size:
            ctypes.memmove(port.host.address, np.ascontiguousarray(value).ctypes.data, port.size)

    def upload(self) -> None:
        """Queue the copies to the device."""
        for port in self.inputs.values():
            if not port.on_host:
                assert port.device is not None
                assert port.host is not None
                self.device.copy(port.device.address, port.host.address, port.size, TO_DEVICE, self.stream)

    def enqueue(self) -> None:
        """Queue the engine."""
        if not self.context.execute_async_v3(self.stream.address):
            for growth in self.growing.values():
                growth.check(self.title)  # the likelier reason, which TensorRT does not know
            raise self._failure("did not start")

    def download(self) -> None:
        """Queue the copies to the host and wait for everything."""
        late = [port for port in self.outputs.values() if port.depends_on_data]
        if late:
            self.device.wait(self.stream)  # only now are their shapes known
        for port in late:
            port.shape, port.device = self.growing[port.name].result(self.title)
            port.host = self._grown(port.host, port.size, self.device.pinned)
        for port in self.outputs.values():
            if not port.on_host:
                assert port.device is not None
                assert port.host is not None
                self.device.copy(port.host.address, port.device.address, port.size, TO_HOST, self.stream)
        self.device.wait(self.stream)

    def collect(self) -> dict[str, NDArray[Any]]:
        """Copy the outputs of the last run."""
        return {name: self._copied(port) for name, port in self.outputs.items()}

    @staticmethod
    def _copied(port: Binding) -> NDArray[Any]:
        assert port.host is not None
        result = np.empty(port.shape, port.dtype)
        if port.size:
            ctypes.memmove(result.ctypes.data, port.host.address, port.size)
        return result

    def _failure(self, what: str) -> BackendError:
        said = "; ".join(dict.fromkeys(self.errors)) or "it logged no reason"
        return BackendError(f"{self.title} {what}: {said}")


class Growing:
    """Memory for an output whose shape is known only after the run; TensorRT asks for it by callback."""

    def __init__(self, request: Request, device: Device, name: str) -> None:
        self._device, self.name = device, name
        self._memory: Handle | None = None
        self._shape: tuple[int, ...] | None = None
        self._failure: BaseException | None = None
        self._allocator = self._make(request)

    def as_allocator(self) -> Any:
        """Give the object that TensorRT calls, made ready for one run."""
        self._shape = self._failure = None
        return self._allocator

    def grow(self, size: int) -> int:
        """Provide ``size`` bytes; 0 tells TensorRT that there are none, and the run fails."""
        try:
            self._memory = EngineRun._grown(self._memory, size, self._device.memory)
        except Exception as error:  # an exception must not cross TensorRT's C++ frames
            self._failure = error
            return 0
        return self._memory.address

    def notify(self, shape: tuple[int, ...]) -> None:
        """Take note of the shape."""
        self._shape = shape

    def check(self, title: str) -> None:
        """Raise what went wrong in a callback, where it could not be raised.

        Raises:
            BackendError: there was no memory.
        """
        if self._failure is not None:
            raise BackendError(f"{title} got no memory for output {self.name!r}: {self._failure}") from self._failure

    def result(self, title: str) -> tuple[tuple[int, ...], Handle]:
        """Shape and memory after a run."""
        self.check(title)
        if self._shape is None or self._memory is None:
            raise BackendError(f"{title} did not say the shape of output {self.name!r}")
        return self._shape, self._memory

    def _make(self, request: Request) -> Any:
        if TYPE_CHECKING:
            import tensorrt as trt
        else:
            trt = bindings.load(request.maker)
        outer = self

        class Allocator(trt.IOutputAllocator):  # type: ignore[misc]  # no stubs are published, so the base is Any
            def __init__(self) -> None:
                trt.IOutputAllocator.__init__(self)

            def reallocate_output(self, _name: str, _memory: int, size: int, _alignment: int) -> int:
                return outer.grow(size)

            def reallocate_output_async(self, _name: str, _memory: int, size: int, _align: int, _stream: int) -> int:
                return outer.grow(size)

            def notify_shape(self, _name: str, shape: tuple[int, ...]) -> None:
                outer.notify(tuple(shape))

        return Allocator()


def start(request: Request, plan: bytes, device: Device) -> EngineRun:
    """Deserialise an engine on a device.

    Raises:
        BackendError: TensorRT does not take it, or it has a tensor that NumPy cannot hold.
    """
    if TYPE_CHECKING:
        import tensorrt as trt
    else:
        trt = bindings.load(request.maker)
    errors: list[str] = []

    def keep(severity: str, message: str) -> None:
        if severity in ("ERROR", "INTERNAL_ERROR"):
            errors.append(message)

    title = f"{request.maker.title} {bindings.version(request.maker)}"

    def failure(what: str) -> BackendError:
        return BackendError(f"{title} {what}: {'; '.join(dict.fromkeys(errors)) or 'it logged no reason'}")

    logger = make_logger(request, keep)
    try:
        runtime = trt.Runtime(logger)
    except TypeError as error:  # "factory function returned nullptr": no usable driver
        raise failure("has no runtime; it needs an NVIDIA driver on this machine") from error
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        raise failure(f"does not deserialise the engine of {request.model}; it may be of another version or GPU")
    context = engine.create_execution_context()
    if context is None:
        raise failure(f"has no room for an execution context of {request.model}")
    inputs: dict[str, Binding] = {}
    outputs: dict[str, Binding] = {}
    for index in range(engine.num_io_tensors):
        name = engine.get_tensor_name(index)
        word = engine.get_tensor_dtype(name).name
        if word not in _DTYPES:
            raise failure(f"has {word} at {name!r}, which NumPy cannot hold; cast it to float32 in the graph")
        port = Binding(name, np.dtype(_DTYPES[word]), engine.get_tensor_location(name) == trt.TensorLocation.HOST)
        if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT:
            inputs[name] = port
        else:
            outputs[name] = port
    stream = device.stream()
    return EngineRun(request, title, engine, context, device, stream, inputs, outputs, errors, keep=(logger, runtime))
