"""ONNX Runtime on the CPU: the runtime of the base install."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from attn_export.deploy_tests.backend import Kernel, Options, Run
from attn_export.deploy_tests.backends.onnxruntime import tuning
from attn_export.deploy_tests.backends.onnxruntime.feeding import fed
from attn_export.deploy_tests.backends.onnxruntime.profile import record
from attn_export.errors import BackendError, BackendMissingError
from attn_export.types import Feeds


class OnnxRuntime:
    """CPU execution provider, all graph optimisations, sequential, denormals flushed to zero."""

    title = "ONNX Runtime"
    accepts = ("onnx", "ort")
    runs_on_own_threads = True
    can_skip_optimization = True
    takes_bfloat16 = True
    libraries = ("onnxruntime",)
    snippet = (
        "import onnxruntime",
        'outputs = onnxruntime.InferenceSession("part.onnx").run(None, inputs)',
    )

    def missing(self) -> str | None:
        """Say how to install ONNX Runtime, or None."""
        if importlib.util.find_spec("onnxruntime") is None:
            return "ONNX Runtime is not installed: pip install onnxruntime"
        return None

    def version(self) -> str:
        """Name and version."""
        import onnxruntime

        return f"ONNX Runtime {onnxruntime.__version__}, CPU"

    @contextmanager
    def open(self, model: Path, options: Options) -> Iterator[Run]:
        """Load ``model`` into a session."""
        if why := self.missing():
            raise BackendMissingError(why)
        import onnxruntime

        settings = onnxruntime.SessionOptions()
        for name, value in tuning.attributes(options, onnxruntime).items():
            setattr(settings, name, value)
        settings.log_severity_level = 4  # errors come as exceptions; printing them as well would be noise
        onnxruntime.set_default_logger_severity(4)  # some are logged outside of any session, with terminal escapes
        for name, value in tuning.ENTRIES.items():
            settings.add_session_config_entry(name, value)
        try:
            session = onnxruntime.InferenceSession(str(model), settings, providers=["CPUExecutionProvider"])
        except Exception as error:  # the runtime's exceptions share no base class of their own
            raise BackendError(f"ONNX Runtime {onnxruntime.__version__} does not load {model}: {error}") from error

        def run(feeds: Feeds) -> dict[str, NDArray[Any]]:
            try:
                return fed(session, feeds)
            except Exception as error:
                shapes = {name: value.shape for name, value in feeds.items()}
                raise BackendError(f"ONNX Runtime breaks on {model} with inputs {shapes}: {error}") from error

        yield run

    def profile(self, model: Path, feeds: Feeds, options: Options, runs: int) -> tuple[Kernel, ...]:
        """Read ONNX Runtime's own profile, on the processor, in the words of the graph."""
        if why := self.missing():
            raise BackendMissingError(why)
        return record(model, feeds, options.threads, runs)

    def tunings(self, threads: int) -> tuple[Mapping[str, str], ...]:
        """List what is worth trying."""
        return tuning.tunings(threads)

    def session_lines(self, model: Path, options: Options) -> tuple[str, ...]:
        """Write what somebody's own program needs."""
        return tuning.lines(model, options)
