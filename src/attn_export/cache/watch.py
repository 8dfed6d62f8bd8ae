"""What somebody's code reads while it is loaded: modules, files, folders and variables; or why that cannot be known.

Python tells of every file that it opens (audit events), and variables are read through one object, which notes them
while it is watched. Compiled code opens files unseen: readers of weights that are known to do so are wrapped, and
modules that read anything else that way make what was loaded unknown.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import sys
import sysconfig
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from attn_export.cache import needs
from attn_export.cache.needs import Needs
from attn_export.process import folders

#: Events after which nobody knows what a network depends on, and what they mean.
_UNKNOWN = {
    "socket.connect": "opens a connection",
    "socket.getaddrinfo": "looks up an address",
    "subprocess.Popen": "starts a program",
    "os.system": "starts a program",
    "os.exec": "starts a program",
    "os.posix_spawn": "starts a program",
    "os.fork": "starts a process",
    "sqlite3.connect": "opens a database",
}
#: Modules whose compiled code opens files that nobody sees.
_UNSEEN = ("cv2", "h5py", "lmdb", "pyarrow", "tables", "tensorflow")
#: Functions of compiled code that take a path first, and are seen through a wrapper.
_WRAPPED = (
    ("safetensors", "safe_open"),
    ("safetensors.torch", "safe_open"),
    ("safetensors.numpy", "safe_open"),
    ("torch.jit", "load"),
    ("torch", "from_file"),
)
#: Of this run alone, or of no consequence for what a network is.
_NO_VARIABLES = {"TMPDIR", "PWD", "OLDPWD", "SHLVL", "_", "COLUMNS", "LINES"}
_NO_FOLDERS = ("/proc/", "/sys/", "/dev/")
_CREATES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


class Watch:
    """What was seen while it was on.

    Args:
        environment: the variables as they are when a later run looks: before anything was imported that sets some.

    Attributes:
        unknown: why nobody can tell what the code depends on; empty where it can be told.
    """

    _on: Watch | None = None
    _hooked = False

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        self.unknown = ""
        self._before = dict(os.environ) if environment is None else environment
        self._files: set[str] = set()
        self._folders: dict[str, str] = {}
        self._variables: dict[str, str] = {}

    @contextlib.contextmanager
    def on(self) -> Iterator[None]:
        """Watch this process while the block runs."""
        if not Watch._hooked:
            sys.addaudithook(_heard)  # which nothing takes off again
            Watch._hooked = True
        kind, before = type(os.environ), Watch._on
        with _wrapped(self._read_file):  # imports what it wraps, which reads much that is no one's network
            os.environ.__class__ = _watched(kind, self._read_variable)
            Watch._on = self
            try:
                yield
            finally:
                Watch._on = before
                os.environ.__class__ = kind
                if hidden := next((name for name in _UNSEEN if name in sys.modules), ""):
                    self.unknown = self.unknown or f"it imports {hidden}, which reads files unseen"

    def heard(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Note one event of Python's."""
        if event == "open":
            path, _, flags = arguments
            if _creates(flags) and not _of_no_matter(path):
                self.unknown = self.unknown or f"it writes {_name(path)}"
            else:
                self._read_file(path)
        elif event in ("os.listdir", "os.scandir"):
            self._read_folder(arguments[0])
        elif event == "ctypes.dlopen":
            self._read_file(arguments[0])
        elif event in _UNKNOWN:
            self.unknown = self.unknown or f"it {_UNKNOWN[event]}"

    def _read_file(self, path: object) -> None:
        if isinstance(path, (str, bytes, os.PathLike)) and not _of_no_matter(path):
            self._files.add(_name(path))

    def _read_folder(self, path: object) -> None:
        if path is not None and not isinstance(path, (str, bytes, os.PathLike)):
            return
        name = _name(path or ".")
        if _of_no_matter(name):
            return
        kind = needs.IMPORTABLE if _importing() else needs.ALL
        self._folders[name] = needs.ALL if self._folders.get(name) == needs.ALL else kind

    def _read_variable(self, name: object) -> None:
        if isinstance(name, str) and name not in _NO_VARIABLES:
            self._variables.setdefault(name, needs.variable(name, self._before))

    def needs(self, modules: dict[str, ModuleType], own: Path) -> Needs | str:
        """Say what everything depends on that was loaded; or why nobody can tell.

        Args:
            modules: what is imported, as ``sys.modules`` has it.
            own: the folder of this package, whose code is known otherwise.
        """
        if self.unknown:
            return self.unknown
        code = list(_sources(modules))
        if lost := next((path for path in code if not Path(path).is_file()), ""):
            return f"the source {lost} is gone"
        places = _Installed(own)
        paths = {place for path in (*code, *self._files) if (place := places.stands_for(path))}
        # Whatever Python would look into: a file that is added there may be imported instead of another.
        looked = {_name(folder): needs.IMPORTABLE for folder in _folders(modules)} | self._folders
        listed = {path: kind for path, kind in looked.items() if places.is_foreign(path)}
        return Needs(
            {path: needs.content(Path(path)) for path in sorted(paths)},
            {path: (kind, needs.names(Path(path), kind)) for path, kind in sorted(listed.items())},
            dict(sorted(self._variables.items())),
        )


def _heard(event: str, arguments: tuple[Any, ...]) -> None:
    if (watch := Watch._on) is not None:
        watch.heard(event, arguments)


def _creates(flags: object) -> bool:
    return isinstance(flags, int) and bool(flags & _CREATES)


def _name(path: object) -> str:
    return os.path.abspath(os.fsdecode(path)) if isinstance(path, (str, bytes, os.PathLike)) else str(path)  # noqa: PTH100


def _of_no_matter(path: object) -> bool:
    """Whether a path is a descriptor, a temporary file of this run, bytecode, or the system's."""
    if not isinstance(path, (str, bytes, os.PathLike)):
        return True
    name = _name(path)
    return name.startswith(_NO_FOLDERS) or f"{os.sep}__pycache__" in name or folders.is_of_this_run(name)


def _importing() -> bool:
    """Whether it is Python's import system that reads a folder."""
    frame = sys._getframe(1)
    while frame is not None and frame.f_globals.get("__name__") == __name__:
        frame = frame.f_back  # type: ignore[assignment]
    return frame is not None and frame.f_code.co_filename == "<frozen importlib._bootstrap_external>"


def _watched(kind: type, read: Callable[[object], None]) -> type:
    """Make a class of environments that tells which variables are read; iterating over all reads all of them."""

    class _Environment(kind):  # type: ignore[misc]  # the class is that of ``os.environ``, patched or not
        def __getitem__(self, key: object) -> Any:
            read(key)
            return super().__getitem__(key)

        def __contains__(self, key: object) -> bool:
            read(key)
            return bool(super().__contains__(key))

    return _Environment


@contextlib.contextmanager
def _wrapped(read: Callable[[object], None]) -> Iterator[None]:
    """Tell of the files that are opened by functions which Python does not see."""
    before = []
    for module, name in _WRAPPED:
        if importlib.util.find_spec(module.partition(".")[0]) is None:
            continue
        try:
            home = importlib.import_module(module)
            function = getattr(home, name)
        except (ImportError, AttributeError):
            continue
        before.append((home, name, function))
        setattr(home, name, _telling(function, read))
    try:
        yield
    finally:
        for home, name, function in before:
            setattr(home, name, function)


def _telling(function: Any, read: Callable[[object], None]) -> Any:
    def told(*arguments: Any, **named: Any) -> Any:
        for value in (*arguments[:1], *(named[name] for name in ("filename", "f") if name in named)):
            read(value)
        return function(*arguments, **named)

    return told


def _sources(modules: dict[str, ModuleType]) -> Iterator[str]:
    for module in list(modules.values()):
        file = getattr(module, "__file__", None)
        # What a program made in memory has no origin, and may claim a file that never was.
        if isinstance(file, str) and (getattr(module, "__spec__", None) is not None or Path(file).is_file()):
            yield os.path.abspath(file)  # noqa: PTH100


def _folders(modules: dict[str, ModuleType]) -> Iterator[str]:
    yield from filter(None, sys.path)
    for module in list(modules.values()):
        with contextlib.suppress(Exception):  # modules that make what is asked of them
            yield from (folder for folder in module.__path__ if isinstance(folder, str))


class _Installed:
    """What stands for a file: nothing for Python's and our own, the list of its distribution's files, or itself."""

    def __init__(self, own: Path) -> None:
        paths = sysconfig.get_paths()
        self._known = tuple({f"{place}{os.sep}" for key in ("stdlib", "platstdlib") for place in _both(paths[key])})
        # Our folders may be links, as in a checkout; then code is found behind them, too.
        self._own = tuple({f"{place}{os.sep}" for one in (own, *own.iterdir()) if one.is_dir() for place in _both(one)})
        self._lists: dict[str, dict[str, str]] = {}
        for folder in filter(None, sys.path):
            if (found := _records(Path(folder))) is not None:
                self._lists[f"{os.path.abspath(folder)}{os.sep}"] = found  # noqa: PTH100

    def stands_for(self, path: str) -> str:
        """Give the file whose content tells of ``path``; empty where that is known otherwise."""
        if path.startswith(self._own):
            return ""
        for folder, lists in self._lists.items():
            if path.startswith(folder):
                return lists.get(path.removeprefix(folder), path)
        return "" if path.startswith(self._known) else path

    def is_foreign(self, folder: str) -> bool:
        """Whether the names in a folder are neither Python's, nor ours, nor those of installed packages."""
        return not f"{folder}{os.sep}".startswith((*self._own, *self._lists, *self._known))


def _both(path: Path | str) -> tuple[str, str]:
    return os.path.abspath(path), os.path.realpath(path)  # noqa: PTH100


def _records(folder: Path) -> dict[str, str] | None:
    """By each file that a distribution in a folder lists, that list; None where nothing is installed there."""
    try:
        lists = [place / "RECORD" for place in folder.iterdir() if place.name.endswith(".dist-info")]
    except OSError:
        return None
    if not lists:
        return None
    found: dict[str, str] = {}
    for file in lists:
        with contextlib.suppress(OSError):
            for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
                found[line.partition(",")[0].strip('"')] = str(file)
    return found
