"""The CUDA runtime by ctypes: memory, streams, events and graphs, with every error raised and everything freed.

Nothing is needed beyond ``libcudart``, which TensorRT needs too. A ``Device`` owns what it hands out: leaving it frees
whatever is left, in reverse order, on every path.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import functools
import importlib.util
import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from ctypes import POINTER, byref, c_char_p, c_float, c_int, c_size_t, c_uint, c_ulonglong, c_void_p
from pathlib import Path
from types import TracebackType
from typing import Any

from attn_export.errors import BackendError

#: Every function that is called, with its parameter types; the tests look each up in NVIDIA's libcudart 12 and 13.
SIGNATURES: dict[str, tuple[Any, ...]] = {
    "cudaGetDeviceCount": (POINTER(c_int),),
    "cudaSetDevice": (c_int,),
    "cudaDeviceGetAttribute": (POINTER(c_int), c_int, c_int),
    "cudaGetDeviceProperties": (c_void_p, c_int),
    "cudaDriverGetVersion": (POINTER(c_int),),
    "cudaRuntimeGetVersion": (POINTER(c_int),),
    "cudaMemGetInfo": (POINTER(c_size_t), POINTER(c_size_t)),
    "cudaMalloc": (POINTER(c_void_p), c_size_t),
    "cudaFree": (c_void_p,),
    "cudaHostAlloc": (POINTER(c_void_p), c_size_t, c_uint),
    "cudaFreeHost": (c_void_p,),
    "cudaMemcpyAsync": (c_void_p, c_void_p, c_size_t, c_int, c_void_p),
    "cudaStreamCreateWithFlags": (POINTER(c_void_p), c_uint),
    "cudaStreamDestroy": (c_void_p,),
    "cudaStreamQuery": (c_void_p,),
    "cudaStreamBeginCapture": (c_void_p, c_int),
    "cudaStreamEndCapture": (c_void_p, POINTER(c_void_p)),
    "cudaEventCreateWithFlags": (POINTER(c_void_p), c_uint),
    "cudaEventDestroy": (c_void_p,),
    "cudaEventRecord": (c_void_p, c_void_p),
    "cudaEventElapsedTime": (POINTER(c_float), c_void_p, c_void_p),
    "cudaGraphInstantiateWithFlags": (POINTER(c_void_p), c_void_p, c_ulonglong),
    "cudaGraphLaunch": (c_void_p, c_void_p),
    "cudaGraphDestroy": (c_void_p,),
    "cudaGraphExecDestroy": (c_void_p,),
    "cudaGetLastError": (),
}
NO_DRIVER, NOT_READY = 35, 600
TO_DEVICE, TO_HOST = 1, 2
_NON_BLOCKING, _CAPTURE_THREAD_LOCAL = 1, 1
_SM_MAJOR, _SM_MINOR = 75, 76
#: The structure has grown with every version (1032 bytes in 12); its first 256 bytes have always been the name.
_PROPERTIES_ROOM, _NAME_LENGTH = 16384, 256


class GpuError(BackendError):
    """A call of the CUDA runtime failed; ``code`` is its cudaError."""

    def __init__(self, call: str, code: int, text: str) -> None:
        super().__init__(f"{call} failed (cudaError {code}): {text}")
        self.code = code


class HangError(BackendError):
    """The GPU did not finish in time. What it holds cannot be freed without waiting for it: end the process."""


def candidates() -> list[str]:
    """Where libcudart may be, most specific first: ``ATTN_EXPORT_CUDART``, the loader's path, NVIDIA's wheels."""
    found = [os.environ["ATTN_EXPORT_CUDART"]] if os.environ.get("ATTN_EXPORT_CUDART") else []
    found += ["libcudart.so.13", "libcudart.so.12", "libcudart.so.11.0", "libcudart.so"]
    spec = importlib.util.find_spec("nvidia")
    for root in (spec.submodule_search_locations or []) if spec else []:
        found += map(str, sorted(Path(root).glob("*/lib/libcudart.so*"), reverse=True))
    found += map(str, sorted(Path("/usr/local").glob("cuda*/lib64/libcudart.so*"), reverse=True))
    return found + list(filter(None, [ctypes.util.find_library("cudart")]))


def load() -> Runtime | None:
    """Load the CUDA runtime, or give None where there is no libcudart."""
    for path in candidates():
        with suppress(OSError):
            return Runtime(ctypes.CDLL(path))
    return None


def missing() -> str | None:
    """Say why no GPU can be used, or None."""
    runtime = load()
    if runtime is None:
        with suppress(OSError):
            ctypes.CDLL("libcuda.so.1")
            return "no CUDA runtime: libcudart was not found; install the CUDA toolkit, or set ATTN_EXPORT_CUDART to it"
        return "no CUDA driver: neither libcuda.so.1 nor libcudart is on this machine; run on one with an NVIDIA GPU"
    try:
        count = runtime.count()
    except GpuError as error:
        if error.code == NO_DRIVER:
            text = runtime.text(error.code)
            return (
                f"no CUDA driver (cudaError {error.code}): {text}; run on a machine with an NVIDIA GPU and its driver"
            )
        return f"no usable GPU: {error}"
    return None if count else "no NVIDIA GPU: the driver is there but counts none"


class Runtime:
    """libcudart with checked calls."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._functions: dict[str, Callable[..., int]] = {}
        for name, kinds in SIGNATURES.items():
            function = getattr(library, name)
            function.argtypes, function.restype = list(kinds), c_int
            self._functions[name] = function
        self._text = library.cudaGetErrorString
        self._text.argtypes, self._text.restype = [c_int], c_char_p

    def code(self, name: str, *args: Any) -> int:
        """Call and give the cudaError."""
        return int(self._functions[name](*args))

    def call(self, name: str, *args: Any) -> None:
        """Call.

        Raises:
            GpuError: it failed.
        """
        if code := self.code(name, *args):
            self.code("cudaGetLastError")  # or the next call that checks would report this one again
            raise GpuError(name, code, self.text(code))

    def text(self, code: int) -> str:
        """Ask the runtime what it calls a cudaError."""
        return (self._text(code) or b"no text").decode(errors="replace")

    def count(self) -> int:
        """Count the GPUs."""
        return self._int("cudaGetDeviceCount")

    def versions(self) -> tuple[str, str]:
        """Version of the CUDA runtime, and the newest one that the driver supports."""
        numbers = self._int("cudaRuntimeGetVersion"), self._int("cudaDriverGetVersion")
        runtime, driver = (f"{number // 1000}.{number % 1000 // 10}" for number in numbers)
        return runtime, driver

    def select(self, device: int) -> None:
        """Make a GPU the one that this thread uses."""
        self.call("cudaSetDevice", device)

    def sm(self, device: int) -> str:
        """Compute capability of a GPU, such as ``"87"``."""
        digits = c_int(), c_int()
        for digit, attribute in zip(digits, (_SM_MAJOR, _SM_MINOR), strict=True):
            self.call("cudaDeviceGetAttribute", byref(digit), attribute, device)
        return "".join(str(digit.value) for digit in digits)

    def name(self, device: int) -> str:
        """Name of a GPU."""
        room = ctypes.create_string_buffer(_PROPERTIES_ROOM)
        self.call("cudaGetDeviceProperties", ctypes.cast(room, c_void_p), device)
        return room.raw[:_NAME_LENGTH].split(b"\0")[0].decode(errors="replace")

    def free_memory(self) -> tuple[int, int]:
        """Free and total bytes of the selected GPU's memory."""
        free, total = c_size_t(), c_size_t()
        self.call("cudaMemGetInfo", byref(free), byref(total))
        return free.value, total.value

    def _int(self, name: str) -> int:
        value = c_int()
        self.call(name, byref(value))
        return value.value


class Handle:
    """Something on the device that must be given back; giving it back twice is harmless."""

    def __init__(self, address: int, size: int, release: Callable[[], None]) -> None:
        self.address, self.size, self._release = address, size, release
        self.live = True

    def free(self) -> None:
        """Give it back.

        Raises:
            GpuError: the runtime refuses.
        """
        if self.live:
            self.live = False
            self._release()


class Device:
    """One GPU in use: hands out memory, streams, events and graphs, and frees all of it on leaving."""

    def __init__(self, runtime: Runtime, index: int = 0, *, limit: float = 60.0) -> None:
        self.runtime, self.index, self.limit = runtime, index, limit
        self._held: list[Handle] = []
        self.hung = False

    def __enter__(self) -> Device:
        self.runtime.select(self.index)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        failures = []
        for handle in reversed(self._held):
            if self.hung:
                continue  # freeing waits for the GPU, which does not answer
            try:
                handle.free()
            except GpuError as failure:
                failures.append(failure)
        self._held.clear()
        if failures and error is None:
            raise failures[0]

    def _hold(self, address: int, size: int, name: str) -> Handle:
        release = functools.partial(self.runtime.call, name, address)
        self._held = [handle for handle in self._held if handle.live]
        self._held.append(handle := Handle(address, size, release))
        return handle

    def _make(self, create: str, destroy: str, *args: Any, size: int = 0) -> Handle:
        pointer = c_void_p()
        self.runtime.call(create, byref(pointer), *args)
        if not pointer.value:
            raise GpuError(create, 0, "it succeeded but gave a null handle")
        return self._hold(pointer.value, size, destroy)

    def memory(self, size: int) -> Handle:
        """Device memory; at least one byte, since a tensor's address must not be null."""
        return self._make("cudaMalloc", "cudaFree", max(size, 1), size=size)

    def pinned(self, size: int) -> Handle:
        """Page-locked host memory: copies from it run at full speed and without blocking."""
        return self._make("cudaHostAlloc", "cudaFreeHost", max(size, 1), 0, size=size)

    def stream(self) -> Handle:
        """Make a stream of its own; on the default one TensorRT adds synchronisation."""
        return self._make("cudaStreamCreateWithFlags", "cudaStreamDestroy", _NON_BLOCKING)

    def event(self) -> Handle:
        """Make an event that records time."""
        return self._make("cudaEventCreateWithFlags", "cudaEventDestroy", 0)

    def copy(self, target: int, source: int, size: int, direction: int, stream: Handle) -> None:
        """Queue a copy."""
        if size:
            self.runtime.call("cudaMemcpyAsync", target, source, size, direction, stream.address)

    def record(self, event: Handle, stream: Handle) -> None:
        """Queue an event."""
        self.runtime.call("cudaEventRecord", event.address, stream.address)

    def elapsed(self, start: Handle, end: Handle) -> float:
        """Milliseconds between two events that both have happened."""
        value = c_float()
        self.runtime.call("cudaEventElapsedTime", byref(value), start.address, end.address)
        return value.value

    def wait(self, stream: Handle) -> None:
        """Wait until a stream is done, spinning: sleeping would add its granularity to every sample.

        Raises:
            HangError: it is not done within the limit.
            GpuError: something queued on it failed.
        """
        deadline = time.monotonic() + self.limit
        while code := self.runtime.code("cudaStreamQuery", stream.address):
            if code != NOT_READY:
                self.runtime.code("cudaGetLastError")
                raise GpuError("cudaStreamQuery", code, self.runtime.text(code))
            if time.monotonic() > deadline:
                self.hung = True
                raise HangError(
                    f"the GPU did not finish within {self.limit:g} s; its memory is not freed, end this process"
                )

    def capture(self, stream: Handle, enqueue: Callable[[], None]) -> Handle:
        """Record what ``enqueue`` queues on ``stream`` as a CUDA graph that can be launched again.

        Raises:
            GpuError: the runtime cannot capture it.
        """
        self.runtime.call("cudaStreamBeginCapture", stream.address, _CAPTURE_THREAD_LOCAL)
        graph = c_void_p()
        try:
            enqueue()
        except BaseException:
            # The capture must end on every path, or the stream stays unusable.
            self.runtime.code("cudaStreamEndCapture", stream.address, byref(graph))
            if graph.value:
                self.runtime.code("cudaGraphDestroy", graph.value)
            self.runtime.code("cudaGetLastError")
            raise
        self.runtime.call("cudaStreamEndCapture", stream.address, byref(graph))
        if not graph.value:
            raise GpuError("cudaStreamEndCapture", 0, "it succeeded but gave no graph")
        try:
            return self._make("cudaGraphInstantiateWithFlags", "cudaGraphExecDestroy", graph.value, 0)
        finally:
            self.runtime.call("cudaGraphDestroy", graph.value)

    def launch(self, graph: Handle, stream: Handle) -> None:
        """Queue a captured graph."""
        self.runtime.call("cudaGraphLaunch", graph.address, stream.address)

    @property
    def held(self) -> Sequence[Handle]:
        """What was handed out and not given back."""
        return [handle for handle in self._held if handle.live]
