"""TensorRT behind the backend protocol: build in a process of its own, keep the engine, run it by ctypes on CUDA."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from attn_export.deploy_tests.backend import EngineFigures, Kernel, Options, Run
from attn_export.deploy_tests.backends.tensorrt import bindings, cache, cuda, figures, inspector, supervise
from attn_export.deploy_tests.backends.tensorrt.bindings import Product
from attn_export.deploy_tests.backends.tensorrt.profile import profile
from attn_export.deploy_tests.backends.tensorrt.request import Request
from attn_export.deploy_tests.backends.tensorrt.run import EngineRun, start
from attn_export.errors import BackendError, BackendMissingError
from attn_export.types import Feeds


@dataclass(frozen=True)
class TensorRT:
    """Strongly typed engines: precision is what the ONNX graph says; TF32 only with ``reduced_precision``.

    Attributes:
        product: TensorRT, or TensorRT for RTX.
        build_limit: seconds a build may take.
        run_limit: seconds one run may take before the GPU counts as hung.
    """

    accepts: ClassVar[tuple[str, ...]] = ("onnx",)
    wants_shape_ranges: ClassVar[bool] = True

    product: Product
    build_limit: float = supervise.LIMIT
    run_limit: float = 60.0
    device = "gpu"

    @property
    def title(self) -> str:
        """What NVIDIA calls it."""
        return self.product.title

    @property
    def libraries(self) -> tuple[str, ...]:
        """The distribution that brings the bindings."""
        return (self.product.distribution,)

    def missing(self) -> str | None:
        """Say what to install or plug in, or None: first the bindings, then the driver and a GPU."""
        return bindings.missing(self.product) or cuda.missing()

    def version(self) -> str:
        """Product and CUDA versions."""
        text = f"{self.product.title} {bindings.version(self.product)}"
        runtime = cuda.load()
        if runtime is None:
            return text
        toolkit, driver = runtime.versions()
        return f"{text}, CUDA {toolkit}, driver {driver}"

    @contextmanager
    def open(self, model: Path, options: Options) -> Iterator[EngineRun]:
        """Build the engine or take it from the cache, and run it on ``options.device``.

        Raises:
            BackendMissingError: there are no bindings, no driver or no GPU.
            BackendError: TensorRT refuses the model (``RefusedError`` names the nodes), or the GPU breaks.
        """
        if why := self.missing():
            raise BackendMissingError(why)
        runtime = cuda.load()
        assert runtime is not None, "missing() found it"
        request = Request(
            self.product.module,
            model,
            shapes=options.shapes,
            tf32=options.reduced_precision,
            device=options.device,
        )
        with cuda.Device(runtime, options.device, limit=self.run_limit) as device:
            run = self._start(request, device)
            try:
                yield run
            finally:
                release(run)

    def measure_engine(self, run: Run, feeds: Feeds, *, duration: float, samples: int) -> EngineFigures:
        """Take the three latencies, the plan with the time of its layers, and the state of the GPU."""
        return figures.measure(self._engine(run), feeds, duration=duration, samples=samples)

    def profile(self, model: Path, feeds: Feeds, options: Options, runs: int) -> tuple[Kernel, ...]:
        """Time every layer of the engine; the plan says which nodes it was made from."""
        with self.open(model, options) as run:
            plan = inspector.inspect(run)
            kinds = {layer.name: layer.kind for layer in plan.layers}
            times = profile(run, feeds, runs=runs, plan=plan)
            return tuple(Kernel(t.layer, kinds.get(t.layer, ""), t.median * 1e3, nodes=t.nodes) for t in times)

    @staticmethod
    def _engine(run: Run) -> EngineRun:
        if not isinstance(run, EngineRun):
            raise BackendError(f"expected an engine that TensorRT opened, got {type(run).__name__}")
        return run

    def _start(self, request: Request, device: cuda.Device) -> EngineRun:
        version, runtime = bindings.version(self.product), device.runtime
        key = cache.key(request, version, runtime.sm(device.index), runtime.name(device.index))
        if plan := cache.find(key):
            try:
                return start(request, plan, device)
            except cuda.GpuError:
                raise  # the GPU is at fault, not the engine
            except BackendError:
                supervise.journal.warning("the cached engine of %s is of no use; building anew", request.model)
        built = supervise.build(request, limit=self.build_limit)
        cache.keep(key, built.plan, {"seconds": built.seconds, "warnings": list(built.warnings)})
        return start(request, built.plan, device)


def release(run: EngineRun) -> None:
    """Let go of the engine while the device is still open: context before engine before runtime."""
    run.growing.clear()
    for name in ("context", "engine", "keep"):
        setattr(run, name, None)
