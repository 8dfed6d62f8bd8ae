"""The half that needs a GPU, against a C double of libcudart and a small engine: every failure has its error,
nothing is leaked, nothing hangs."""

from __future__ import annotations

import ctypes
import gc
import importlib.machinery
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from attn_export.deploy_tests.backend import Options
from attn_export.deploy_tests.backends import BACKENDS
from attn_export.deploy_tests.backends.tensorrt import BACKEND, cache, cuda, inspector, latency, machine, supervise
from attn_export.deploy_tests.backends.tensorrt.profile import profile
from attn_export.deploy_tests.backends.tensorrt.supervise import Built
from attn_export.errors import BackendError, BackendMissingError
from attn_export.types import ShapeRange
from tests.deploy_tests.tensorrt import fake_trt

PORTS: dict[str, dict[str, Any]] = {
    "x": {"dtype": "FLOAT", "shape": [-1, 3], "mode": "INPUT"},
    "y": {"dtype": "FLOAT", "shape": [-1, 3], "mode": "OUTPUT"},
}
LATE = {**PORTS, "z": {"dtype": "FLOAT", "shape": [-1, 3], "mode": "OUTPUT", "depends_on_data": True}}
QUICK = {"warmup": 0.0, "least_warmup": 1, "duration": 0.0, "least": 3}


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("double") / "libcudart_double.so"
    source = Path(__file__).with_name("cudart_double.c")
    subprocess.run(["gcc", "-shared", "-fPIC", "-Wall", "-Werror", str(source), "-o", str(target)], check=True)
    return target


class Double:
    """Control over the C double."""

    def __init__(self, path: Path) -> None:
        self.lib = ctypes.CDLL(str(path))
        self.lib.double_room.argtypes = [ctypes.c_size_t]
        self.lib.double_reset()

    def fail(self, name: str, at: int = 1, code: int = 2) -> None:
        self.lib.double_fail(name.encode(), at, code)

    def calls(self, name: str) -> int:
        return int(self.lib.double_calls(name.encode()))

    @property
    def live(self) -> int:
        return int(self.lib.double_live())

    def assert_clean(self) -> None:
        gc.collect()
        assert self.live == 0, "something on the device was not given back"
        assert self.lib.double_bad_frees() == 0, "something was given back twice"
        assert self.lib.double_capturing() == 0, "the stream was left capturing"
        assert not list(fake_trt.LIVE), "an engine or a context outlived the device"


@pytest.fixture
def double(
    library: Path, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Double]:
    """A GPU that is a double, an engine that is a fake, and a cache that is not the user's."""
    control = Double(library)
    monkeypatch.setenv("ATTN_EXPORT_CACHE", str(tmp_path_factory.mktemp("engines")))
    monkeypatch.setenv("ATTN_EXPORT_CUDART", str(library))
    monkeypatch.setattr(fake_trt, "__spec__", importlib.machinery.ModuleSpec("tensorrt", None))
    monkeypatch.setitem(sys.modules, "tensorrt", fake_trt)
    monkeypatch.setattr(fake_trt, "LIBRARY", control.lib)
    fake_trt.REFUSE.clear()
    serve(monkeypatch, PORTS)
    # What lives already is not searched again at each check: that takes a quarter of a second where PyTorch is loaded.
    gc.collect()
    gc.freeze()
    yield control
    gc.unfreeze()
    fake_trt.REFUSE.clear()
    control.lib.double_reset()


def serve(monkeypatch: pytest.MonkeyPatch, ports: dict[str, Any]) -> list[int]:
    """Let builds give an engine with these ports; counts them."""
    builds: list[int] = []

    def build(_request: Any, **_: Any) -> Built:
        builds.append(1)
        return Built(json.dumps(ports).encode(), "10.3.0", 0.1, ())

    monkeypatch.setattr(supervise, "build", build)
    return builds


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "m.onnx"
    path.write_bytes(b"a model")
    return path


def ramp(rows: int, dtype: str = "float32") -> np.ndarray:
    return np.arange(rows * 3, dtype=dtype).reshape(rows, 3)


def test_runs_grows_and_gives_everything_back(double: Double, model: Path) -> None:
    with BACKEND.open(model, Options()) as run:
        for rows in (2, 5, 1, 0):
            out = run({"x": ramp(rows)})
            np.testing.assert_array_equal(out["y"], 2 * ramp(rows) + 1)
            assert out["y"].dtype == np.float32
        kept = run({"x": ramp(2)})["y"]
        run({"x": ramp(2) + 100})
        np.testing.assert_array_equal(kept, 2 * ramp(2) + 1)  # a copy, not a view of the buffer
        assert double.live == 5  # a stream, and two buffers for each of two ports
    double.assert_clean()


def test_inputs_in_another_memory_order(double: Double, model: Path) -> None:
    with BACKEND.open(model, Options()) as run:
        x = np.asfortranarray(ramp(4))
        np.testing.assert_array_equal(run({"x": x})["y"], 2 * x + 1)


def test_an_output_whose_shape_depends_on_data(double: Double, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    serve(monkeypatch, LATE)
    with BACKEND.open(model, Options()) as run:
        for rows in (4, 8, 2):
            np.testing.assert_array_equal(run({"x": ramp(rows)})["z"], (2 * ramp(rows) + 1)[: rows // 2])
    double.assert_clean()


def test_version_and_state_of_the_machine(double: Double) -> None:
    assert BACKEND.missing() is None
    assert BACKEND.version() == "TensorRT 10.3.0, CUDA 12.4, driver 12.6"
    runtime = cuda.load()
    assert runtime is not None
    facts = machine.describe(runtime, 0)
    assert (facts["gpu"], facts["sm"], facts["memory_total_mb"]) == ("Double", "87", "1024")


def test_three_latencies_and_times_per_layer(double: Double, model: Path) -> None:
    with BACKEND.open(model, Options()) as run:
        times = latency.measure(run, {"x": ramp(2)}, **QUICK)
        assert [len(s) for s in (times.gpu, times.host, times.graph)] == [3, 3, 3]
        assert min(times.host) > 0
        assert double.calls("cudaGraphLaunch") == 4
        plan = inspector.inspect(run)
        (layer,) = profile(run, {"x": ramp(2)}, runs=5, plan=plan)
        assert (layer.layer, layer.samples, layer.nodes) == ("double_it", (0.25,) * 5, ("mul",))
    double.assert_clean()


def test_a_captured_engine_computes_when_it_is_launched_and_not_before(double: Double, model: Path) -> None:
    with BACKEND.open(model, Options()) as run:
        assert run({"x": ramp(2)})["y"].tolist() == (2 * ramp(2) + 1).tolist()
        run.bind({"x": 10 * ramp(2)})
        run.upload()
        graph = run.device.capture(run.stream, run.enqueue)
        run.download()
        assert run.collect()["y"].tolist() == (2 * ramp(2) + 1).tolist()  # what was captured has not run
        run.device.launch(graph, run.stream)
        run.download()
        assert run.collect()["y"].tolist() == (20 * ramp(2) + 1).tolist()
        graph.free()
    double.assert_clean()


def test_an_engine_that_cannot_be_captured_has_no_graph_figure(double: Double, model: Path) -> None:
    double.fail("cudaGraphInstantiateWithFlags", code=900)
    with BACKEND.open(model, Options()) as run:
        times = latency.measure(run, {"x": ramp(2)}, **QUICK)
    assert (len(times.gpu), times.graph) == (3, ())
    assert times.graph_missing.startswith("the engine cannot be captured: cudaGraphInstantiateWithFlags failed")
    double.assert_clean()


@pytest.mark.parametrize("error", [BackendError("refused"), KeyboardInterrupt()])
def test_a_capture_that_is_broken_off_leaves_a_usable_stream(error: BaseException, double: Double) -> None:
    runtime = cuda.load()
    assert runtime is not None

    def enqueue() -> None:
        raise error

    with cuda.Device(runtime) as device:
        stream = device.stream()
        with pytest.raises(type(error)):
            device.capture(stream, enqueue)
        assert device.capture(stream, lambda: None).live
    double.assert_clean()


def everything(model: Path) -> None:
    with BACKEND.open(model, Options()) as run:
        run({"x": ramp(2)})
        run({"x": ramp(6)})
        latency.measure(run, {"x": ramp(2)}, **QUICK)
        profile(run, {"x": ramp(2)}, runs=2, plan=inspector.inspect(run))


#: Without these figures can be had all the same; the reason stands beside them.
CAPTURE = {"cudaStreamBeginCapture", "cudaStreamEndCapture", "cudaGraphInstantiateWithFlags", "cudaGraphDestroy"}


@pytest.mark.parametrize("function", sorted(cuda.SIGNATURES))
def test_every_call_of_the_runtime_failing_once(
    function: str, double: Double, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve(monkeypatch, LATE)
    everything(model)
    double.assert_clean()
    count = double.calls(function)
    if function in ("cudaGetLastError", "cudaMemGetInfo", "cudaRuntimeGetVersion", "cudaDriverGetVersion"):
        assert count == 0  # called when something failed, or for a report
        return
    assert count > 0
    for at in range(1, count + 1):
        double.lib.double_reset()
        double.fail(function, at, code=700)
        if function in CAPTURE:
            everything(model)
        elif function == "cudaGetDeviceCount":
            with pytest.raises(BackendMissingError, match=r"no usable GPU: cudaGetDeviceCount failed .cudaError 700"):
                everything(model)
        else:
            with pytest.raises(BackendError, match=rf"{function} failed \(cudaError 700\): an illegal memory access"):
                everything(model)
        double.assert_clean()


@pytest.mark.parametrize(
    "function",
    [
        "cudaMalloc",
        "cudaHostAlloc",
        "cudaStreamCreateWithFlags",
        "cudaEventCreateWithFlags",
        "cudaStreamEndCapture",
    ],
)
def test_a_null_handle_is_not_taken_for_success(function: str, double: Double, model: Path) -> None:
    double.lib.double_null(function.encode())
    if function in CAPTURE:
        with BACKEND.open(model, Options()) as run:
            assert "gave no graph" in latency.measure(run, {"x": ramp(2)}, **QUICK).graph_missing
    else:
        with pytest.raises(cuda.GpuError, match=f"{function} failed .*null handle"):
            everything(model)
    double.assert_clean()


REFUSALS = {
    "Runtime": (None, "has no runtime; it needs an NVIDIA driver on this machine: no driver"),
    "deserialize_cuda_engine": (None, r"does not deserialise the engine of .*: the engine is of another version"),
    "create_execution_context": (None, "has no room for an execution context"),
    "set_input_shape": (False, r"refuses shape \(2, 3\) for input 'x'.*: the shape lies outside the profile"),
    "infer_shapes": (["s"], "insufficiently specified: s: it logged no reason"),
    "set_tensor_address": ("x", "refuses the memory for 'x'"),
    "set_tensor_address output": ("y", "refuses the memory for 'y'"),
    "set_output_allocator": (False, "refuses an allocator for output 'z'"),
    "notify_shape": (None, "did not say the shape of output 'z'"),
    "execute_async_v3": (False, "did not start: cannot enqueue"),
    "report_to_profiler": (False, "does not report layer times"),
    "report_layer_time": (None, "reported no layers"),
    "create_engine_inspector": (None, "gives no inspector"),
    "get_engine_information": ("{", "what the inspector says cannot be read"),
}


@pytest.mark.parametrize("call", REFUSALS)
def test_every_call_of_tensorrt_refusing(
    call: str, double: Double, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve(monkeypatch, LATE)
    value, says = REFUSALS[call]
    fake_trt.REFUSE[call.split()[0]] = value
    with pytest.raises(BackendError, match=f"^TensorRT 10.3.0:? .*{says}"):
        everything(model)
    double.assert_clean()


def test_out_of_memory_on_the_device_says_so(double: Double, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    double.lib.double_room(30)
    with pytest.raises(cuda.GpuError, match=r"cudaMalloc failed \(cudaError 2\): out of memory") as caught:
        everything(model)
    assert caught.value.code == 2
    double.assert_clean()
    double.lib.double_reset()
    serve(monkeypatch, LATE)
    model.write_bytes(b"another model")  # or its engine would come from the cache
    double.lib.double_room(50)  # x and y take 24 bytes each; there is none for z, which is asked for by callback
    with pytest.raises(BackendError, match=r"got no memory for output 'z': cudaMalloc failed .*out of memory"):
        everything(model)
    double.assert_clean()


FEEDS = {
    "missing": ({}, r"expects the inputs \['x'\], got \[\]"),
    "unknown": ({"x": ramp(2), "w": ramp(2)}, r"got \['w', 'x'\]"),
    "element type": ({"x": ramp(2, "float64")}, "expects float32 for input 'x', got float64"),
    "rank": ({"x": np.zeros(3, np.float32)}, r"refuses shape \(3,\)"),
    "outside the profile": ({"x": ramp(65)}, r"refuses shape \(65, 3\).*outside the profile"),
}


@pytest.mark.parametrize("name", FEEDS)
def test_feeds_that_do_not_fit(name: str, double: Double, model: Path) -> None:
    feeds, says = FEEDS[name]
    with BACKEND.open(model, Options()) as run:
        with pytest.raises(BackendError, match=says):
            run(feeds)
        np.testing.assert_array_equal(run({"x": ramp(2)})["y"], 2 * ramp(2) + 1)  # and it still runs
    double.assert_clean()


def test_a_hang_is_limited_and_said(double: Double, model: Path) -> None:
    quick = replace(BACKEND, run_limit=0.1)
    with (
        pytest.raises(cuda.HangError, match=r"did not finish within 0\.1 s; its memory is not freed, end this process"),
        quick.open(model, Options()) as run,
    ):
        double.lib.double_hang(1)
        run({"x": ramp(2)})
    assert double.calls("cudaFree") == 0, "freeing would wait for the GPU that hangs"


def test_an_exception_of_the_caller_frees_everything_and_passes_through(double: Double, model: Path) -> None:
    with pytest.raises(KeyboardInterrupt), BACKEND.open(model, Options()) as run:
        run({"x": ramp(2)})
        raise KeyboardInterrupt
    double.assert_clean()


def test_an_element_type_that_numpy_lacks(double: Double, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    serve(monkeypatch, {**PORTS, "x": {**PORTS["x"], "dtype": "BF16"}})
    with pytest.raises(BackendError, match="has BF16 at 'x', which NumPy cannot hold; cast it to float32 in the graph"):
        everything(model)
    double.assert_clean()


def test_engines_are_cached_by_graph_and_flags(double: Double, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    builds = serve(monkeypatch, PORTS)

    def opened(options: Options) -> int:
        with BACKEND.open(model, options) as run:
            run({"x": ramp(1)})
        return len(builds)

    shapes = {"x": ShapeRange((1, 3), (2, 3), (8, 3))}
    assert [opened(Options()), opened(Options())] == [1, 1]
    assert opened(Options(shapes=shapes)) == 2
    assert opened(Options(reduced_precision=True)) == 3
    assert opened(Options()) == 3
    model.write_bytes(b"another model")
    assert opened(Options()) == 4
    model.with_name("m.onnx.data").write_bytes(b"weights")
    assert opened(Options()) == 5


def test_a_damaged_or_stale_engine_is_built_anew(double: Double, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    builds = serve(monkeypatch, PORTS)
    everything(model)
    (file,) = cache.folder().glob("*/engine")
    intact = file.read_bytes()
    file.write_bytes(intact[:-1])
    everything(model)
    assert len(builds) == 2
    assert file.read_bytes() == intact
    monkeypatch.setattr(cache, "find", lambda key: b"an engine of another driver")
    everything(model)
    assert len(builds) == 3
    double.assert_clean()


def test_a_cache_that_cannot_be_written_is_no_failure(
    double: Double, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("ATTN_EXPORT_CACHE", str(tmp_path / "file"))
    everything(model)
    double.assert_clean()


@pytest.mark.parametrize(
    ("code", "says"),
    [(35, r"^no CUDA driver \(cudaError 35\): CUDA driver version is insufficient"), (100, "^no usable GPU: ")],
)
def test_missing_says_why_there_is_no_gpu(code: int, says: str, double: Double, model: Path) -> None:
    double.fail("cudaGetDeviceCount", code=code)
    assert re.match(says, BACKEND.missing() or "")
    double.fail("cudaGetDeviceCount", at=2, code=code)
    with pytest.raises(BackendMissingError, match=says):
        everything(model)


def test_missing_counts_gpus(double: Double) -> None:
    double.lib.double_devices(0)
    assert BACKEND.missing() == "no NVIDIA GPU: the driver is there but counts none"


def test_missing_without_libcudart(double: Double, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "candidates", list)
    assert (BACKEND.missing() or "").startswith(("no CUDA driver: neither", "no CUDA runtime: libcudart"))


def test_bindings_that_do_not_load(double: Double, monkeypatch: pytest.MonkeyPatch) -> None:
    from attn_export.deploy_tests.backends.tensorrt import bindings

    def load(_: Any) -> Any:
        raise ImportError("libnvinfer.so.10: cannot open shared object file")

    monkeypatch.setattr(bindings, "load", load)
    why = BACKEND.missing() or ""
    assert why.startswith("TensorRT does not load: libnvinfer.so.10: cannot open")
    assert "pip install" in why


@pytest.mark.parametrize("name", ["tensorrt", "tensorrt_rtx"])
def test_the_registry_has_both_products_and_importing_them_is_cheap(name: str) -> None:
    assert name in BACKENDS
    heavy = ("torch", "onnx", "tensorrt", "tensorrt_rtx", "onnxruntime")
    code = f"from attn_export.deploy_tests.backends import BACKENDS; BACKENDS[{name!r}]; import sys; "
    code += f"raise SystemExit([m for m in {heavy} if m in sys.modules] or 0)"
    subprocess.run([sys.executable, "-c", code], check=True)
