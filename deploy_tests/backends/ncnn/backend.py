"""ncnn on the CPU.

It has no names, checks no shapes, and computes in float16 and bfloat16 as it likes: names and shapes stand beside the
file, and what may round is switched off and read back.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from attn_export.deploy_tests.backend import Options, Run
from attn_export.deploy_tests.backends.ncnn import layout
from attn_export.errors import BackendError, BackendMissingError
from attn_export.process.silence import silenced
from attn_export.types import Feeds
from attn_export.untrusted.text import one_line

#: What would round behind a float32 file.
ROUNDING = (
    "use_fp16_packed",
    "use_fp16_storage",
    "use_fp16_arithmetic",
    "use_bf16_packed",
    "use_bf16_storage",
    "use_int8_packed",
    "use_int8_storage",
    "use_int8_arithmetic",
    "use_int8_inference",
)
#: Precisions of files that are computed in float32.
PRECISIONS = ("float32", "float16")


class Ncnn:
    """Every layer in float32, with whatever algorithms ncnn chooses; weights may be stored in float16.

    The package for Python has no profiler.
    """

    title = "ncnn"
    accepts = ("ncnn",)
    runs_on_own_threads = True
    libraries = ("ncnn",)

    def missing(self) -> str | None:
        """Say how to install ncnn, or None."""
        if importlib.util.find_spec("ncnn") is None:
            return "ncnn is not installed: pip install 'attn-export[ncnn]'"
        return None

    def version(self) -> str:
        """Name and version."""
        return f"ncnn {importlib.metadata.version('ncnn')}, CPU"

    @contextmanager
    def open(self, model: Path, options: Options) -> Iterator[Run]:
        """Load ``model``, the ``.bin`` and the ``.json`` beside it.

        Raises:
            BackendMissingError: ncnn is not installed.
            BackendError: it refuses the model, or what rounds cannot be switched off.
        """
        if why := self.missing():
            raise BackendMissingError(why)
        if options.precision not in PRECISIONS:
            raise BackendError(f"ncnn: expected a file of {' or '.join(PRECISIONS)}, got {options.precision}")
        found = layout.read(model)
        layout.held_to(found, options.inputs, options.outputs, model)
        import ncnn

        net = ncnn.Net()
        configure(net.opt, options.threads)
        with silenced() as said:  # ncnn has no exceptions: it prints, and gives a code
            loaded = net.load_param(str(model)) == 0 and net.load_model(str(model.with_suffix(".bin"))) == 0
            why = one_line(said())
        if not loaded:
            raise BackendError(f"{self.version()} does not load {model}: {why or 'it gave no reason'}")

        def run(feeds: Feeds) -> dict[str, NDArray[Any]]:
            try:
                return _run(ncnn, net, found, feeds)
            except Exception as error:  # the runtime's exceptions share no base class of their own
                shapes = {name: value.shape for name, value in feeds.items()}
                raise BackendError(f"{self.version()} breaks on {model} with inputs {shapes}: {error}") from error

        yield run
        net.clear()


def configure(opt: Any, threads: int) -> None:
    """Switch off what rounds, and read it back.

    Raises:
        BackendError: ncnn has no such switch any more, or it does not stay off.
    """
    opt.num_threads = threads
    opt.use_vulkan_compute = False
    for name in ROUNDING:
        if hasattr(opt, name):
            setattr(opt, name, False)
        if getattr(opt, name, True):
            raise BackendError(f"ncnn: expected {name} to be off, got {getattr(opt, name, 'no such option')}")


def _run(ncnn: Any, net: Any, found: layout.Layout, feeds: Feeds) -> dict[str, NDArray[Any]]:
    extractor = net.create_extractor()
    for index, port in enumerate(found.inputs):
        port.fit(feeds[port.name])
        value = port.stored(feeds[port.name])
        # A copy: ncnn lays channels out with gaps, and would read over those that are not there.
        if extractor.input(f"in{index}", ncnn.Mat(value, **_batch(port)).clone()):
            raise ValueError(f"it does not take {port.name}")
    answers = {}
    for index, port in enumerate(found.outputs):
        code, value = extractor.extract(f"out{index}")
        if code:
            raise ValueError(f"{port.name} could not be computed (code {code})")
        answers[port.name] = value.numpy(**_batch(port)).copy()
    return answers


def _batch(port: layout.Port) -> dict[str, int]:
    return {} if port.batch is None else {"batch_index": port.batch}
