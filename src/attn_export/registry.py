"""A folder is a registry: one file, one entry, one upper-case constant; the file's name is the entry's name.

Names are found by looking, entries are imported on demand, so listing costs no import. Other distributions
add entries through the entry-point group named like the package.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import entry_points
from pathlib import Path
from typing import Generic, TypeVar, cast

from attn_export.errors import AttnExportError, UnknownNameError

T = TypeVar("T")


@dataclass(frozen=True)
class Entry:
    """Where an entry lives: its family (sub-folder, or ""), its module, and its file if it is ours."""

    family: str
    module: str
    path: Path | None


class Registry(Generic[T]):
    """The entries of one package, by name.

    Args:
        package: dotted name of the package that is the folder.
        constant: the upper-case name that each module defines.
        kind: what an entry is called in messages.
        families: whether entries lie in sub-packages (families) or in the folder itself.
    """

    def __init__(self, package: str, constant: str, kind: str, *, families: bool) -> None:
        self.package, self.constant, self.kind = package, constant, kind
        self._families = families

    @cached_property
    def entries(self) -> dict[str, Entry]:
        """Every entry's place, sorted by name, without importing any.

        Raises:
            AttnExportError: two files give one name.
        """
        # find_spec of a dotted name would import the parent; ours are all below the root package's folder.
        root = Path(__file__).parent.joinpath(*self.package.split(".")[1:])
        folders = [p for p in sorted(root.iterdir()) if _is_package(p)] if self._families else [root]
        found: dict[str, Entry] = {}
        for folder in folders:
            family = folder.name if self._families else ""
            for path in sorted(folder.iterdir()):
                name = path.stem
                if name.startswith("_") or not (path.suffix == ".py" or _is_package(path)):
                    continue
                module = ".".join(filter(None, (self.package, family, name)))
                self._put(found, name, Entry(family, module, path if path.is_file() else path / "__init__.py"))
        for point in entry_points(group=self.package):
            self._put(found, point.name, Entry("plug-in", point.value, None))
        return dict(sorted(found.items()))

    def _put(self, found: dict[str, Entry], name: str, entry: Entry) -> None:
        if name in found:
            raise AttnExportError(
                f"two {self.kind}s are called {name!r}: {found[name].module} and {entry.module}; rename one"
            )
        found[name] = entry

    def entry(self, name: str) -> Entry:
        """Say where an entry lives.

        Raises:
            UnknownNameError: there is no such entry.
        """
        try:
            return self.entries[name]
        except KeyError:
            raise UnknownNameError(self.kind, name, self.entries) from None

    def __getitem__(self, name: str) -> T:
        module = importlib.import_module(self.entry(name).module.partition(":")[0])
        return cast(T, getattr(module, self.constant))

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def __contains__(self, name: object) -> bool:
        return name in self.entries

    def __len__(self) -> int:
        return len(self.entries)


def _is_package(path: Path) -> bool:
    return path.is_dir() and (path / "__init__.py").is_file() and not path.name.startswith("_")
