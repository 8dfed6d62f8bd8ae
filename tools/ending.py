"""How a run ends: whatever comes out of the command line becomes one sentence and one exit code.

what an error of ours says      its own sentence and code (``errors``)
a package that is missing       3, with the command that installs it
no memory, no space             3; a library that cannot be loaded, too
told to stop                    130, 143, 129
standard output is closed       141, in silence
anything else                   70: a fault of ours, with a log that holds the traceback
"""

from __future__ import annotations

import contextlib
import errno
import io
import platform
import re
import sys
import traceback
from collections.abc import Callable
from typing import Any

from attn_export import __version__
from attn_export.errors import AttnExportError, WriteError
from attn_export.process import activity, folders, supervisor
from attn_export.process.supervisor import StopError
from attn_export.tools import console
from attn_export.untrusted import text

#: A fault of ours; sysexits.h calls it EX_SOFTWARE.
OURS = 70
#: As shells have it for a program that SIGPIPE ended.
CLOSED = 141
FAILED = 3
#: Letters of a sentence: names come from outside.
LONGEST = 1500

#: Packages that an extra brings, by the name that is imported.
EXTRAS = {
    **dict.fromkeys(
        ("torch", "onnx", "onnx_ir", "onnxscript", "onnxsim", "safetensors", "jaxtyping", "ml_dtypes"), "export"
    ),
    "jinja2": "report",
    "markupsafe": "report",
    "PIL": "images",
    "tensorrt": "tensorrt",
    "tensorrt_rtx": "rtx",
    "onnxruntime_qnn": "qnn",
    "ethosu": "ethos-u",
    "ai_edge_quantizer": "ethos-u",
    "litert_torch": "litert",
    "ai_edge_litert": "litert",
    "openvino": "openvino",
    "executorch": "executorch",
    "coremltools": "coreml",
    "ncnn": "ncnn",
    "MNN": "mnn",
    **dict.fromkeys(("dask", "distributed"), "farm"),
    "onnxruntime": "",
    "numpy": "",
}
#: What the machine lacks, and not we.
_MACHINE = {
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EROFS,
    errno.EACCES,
    errno.EPERM,
    errno.EIO,
    errno.EMFILE,
    errno.ENFILE,
    errno.ENOMEM,
    errno.EFBIG,
    errno.ENAMETOOLONG,
    errno.ELOOP,
    errno.ESTALE,
    errno.EAGAIN,
}


class ClosedError(BaseException):
    """Nobody reads standard output any more. No Exception: nothing of ours may take it for a failure of its own."""


def run(start: Callable[[], object]) -> None:
    """Run the command line, as the child of ``supervisor`` does.

    ``start`` imports it first: that must find the streams in place.

    Raises:
        SystemExit: always.
    """
    sys.stdout = _text(1, _Output)
    sys.stderr = _text(2, _Stream)
    raise SystemExit(coded(start))


def coded(work: Callable[[], object]) -> int:
    """Run ``work`` and return its exit code; what went wrong goes to stderr, and with ``--json`` to stdout."""
    try:
        code = _ended(work)
        sys.stdout.flush()
        if supervisor.stopped() and code:
            raise StopError(supervisor.stopped())
    except ClosedError:
        return CLOSED
    except WriteError as error:  # standard output is full
        return failed(str(error), error.exit_code, type(error).__name__)
    except StopError as stop:
        return failed(stop_sentence(stop), stop.exit_code, "Stopped")
    return code


def _ended(work: Callable[[], object]) -> int:
    try:
        code = work()
        return code if isinstance(code, int) else 0
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    except KeyboardInterrupt as error:
        raise StopError(2) from error
    except AttnExportError as error:
        _debug()
        return failed(str(error), error.exit_code, type(error).__name__)
    except ImportError as error:
        return _not_imported(error)
    except MemoryError:
        return _no_memory()
    except OSError as error:
        return _refused_by_the_system(error)
    except Exception as error:
        if hasattr(error, "format_message") and hasattr(error, "exit_code"):  # click's, by whatever name it is imported
            return _usage(error)
        return _no_memory() if _NO_MEMORY.search(str(error)) else _ours(error)


def _not_imported(error: ImportError) -> int:
    """Say which package is missing and how to get it, or that it cannot be loaded; a module of ours is our fault."""
    if isinstance(error, ModuleNotFoundError):
        if (name := (error.name or "").partition(".")[0]) not in EXTRAS:
            return _ours(error)
        package = f"attn-export[{EXTRAS[name]}]" if EXTRAS[name] else "attn-export"
        _debug()
        return failed(f"this needs the package {name}, which is not installed: pip install '{package}'", FAILED)
    if "attn_export" in f"{error.name} {error.path}":
        return _ours(error)
    _debug()
    return failed(f"the package {error.name or 'that this needs'} cannot be loaded: {error}", FAILED)


def _refused_by_the_system(error: OSError) -> int:
    """Say what the machine lacks; whatever else the system refuses, we have asked for wrongly."""
    if error.errno not in _MACHINE:
        return _ours(error)
    _debug()
    place = f"{error.filename}: " if error.filename else ""
    return failed(f"{place}{error.strerror}; {supervisor.left(activity.now())}", FAILED)


def _usage(error: Any) -> int:
    """Print the usage and why the command line was refused; words that were typed are text like others."""
    context = getattr(error, "ctx", None)
    if type(error).__name__ == "NoArgsIsHelpError" and context:
        for line in context.get_help().splitlines():
            console.say(line, err=True)
        return int(error.exit_code)
    if context:
        console.say(context.get_usage(), f"Try '{context.command_path} -h' for help.", "", err=True)
    console.say(f"Error: {error.format_message()[:LONGEST]}", err=True)
    return int(error.exit_code)


#: How compiled code says that it got no memory, in exceptions of any kind.
_NO_MEMORY = re.compile("can't allocate memory|cannot allocate memory|bad_alloc|out of memory", re.IGNORECASE)


def _no_memory() -> int:
    _debug()
    return failed(f"not enough memory while {activity.now().doing}; {supervisor.left(activity.now())}", FAILED)


def stop_sentence(stop: StopError) -> str:
    """Say why a run stopped that was told to."""
    return f"{supervisor.words(stop.number)}; {supervisor.left(activity.now())}"


def failed(sentence: str, code: int, kind: str = "") -> int:
    """Say what went wrong, and give the code back."""
    if len(sentence) > LONGEST:  # some names are pages
        sentence = f"{sentence[: LONGEST // 2]} … {sentence[-LONGEST // 2 :]}"
    if "--json" in sys.argv and not console.emitted():
        with contextlib.suppress(WriteError, ClosedError, OSError):
            console.emit({"error": sentence, "kind": kind, "exit_code": code})
            sys.stdout.flush()
    with contextlib.suppress(OSError):
        console.say(f"error: {sentence}" if code < 128 else sentence, err=True)
        sys.stderr.flush()
    return code


def _debug() -> None:
    if "--debug" in sys.argv:  # names and messages in it are text from elsewhere
        with contextlib.suppress(OSError):
            console.say(*traceback.format_exc().splitlines(), err=True)


def _ours(error: BaseException) -> int:
    """Report a fault of ours: one sentence, and a log for whoever is to mend it."""
    _debug()
    shown = text.one_line(f"{type(error).__name__}: {error}" if str(error) else type(error).__name__)[:300]
    place = _log(error)
    where = f"the traceback is in {place}" if place else "run it again with --debug to see the traceback"
    return failed(
        f"attn-export itself failed ({shown}); this says nothing about the model; {where}, please report it",
        OURS,
        "InternalError",
    )


def _log(error: BaseException) -> str:
    lines = [
        f"attn-export {__version__}, Python {platform.python_version()}, {platform.platform()}",
        f"command: {' '.join(map(repr, sys.argv))}",
        f"while: {activity.now().doing} {activity.now().model}",
        "",
        *traceback.format_exception(error),
    ]
    try:
        file = folders.crash() / "log.txt"
        file.write_text("\n".join(lines), encoding="utf-8", errors="backslashreplace")
    except OSError:
        return ""
    return str(file)


class _Stream(io.FileIO):
    """A standard stream; once it failed, what is written to it is dropped."""

    broken = False

    def write(self, content: Any, /) -> int:
        if not self.broken:
            try:
                return super().write(content)
            except OSError as error:
                self.broken = True
                self.fail(error)
        return len(memoryview(content).cast("B"))

    def fail(self, error: OSError) -> None:
        """Act on the first failure; for stderr do nothing, as the result goes elsewhere."""


class _Output(_Stream):
    """Standard output: what cannot be written ends the run, as closed or as full."""

    def fail(self, error: OSError) -> None:
        if isinstance(error, BrokenPipeError):
            raise ClosedError from error
        raise WriteError(f"cannot write to standard output: {error.strerror or error}") from error


def _text(descriptor: int, kind: type[_Stream]) -> io.TextIOWrapper:
    """Open a standard stream over a raw file of ours."""
    raw = kind(descriptor, "w", closefd=False)
    lines = descriptor == 2 or raw.isatty()
    return io.TextIOWrapper(io.BufferedWriter(raw), encoding="utf-8", errors="backslashreplace", line_buffering=lines)
